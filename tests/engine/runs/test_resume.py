"""A run that was stopped and resumed is the run that was not, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from tensorboard.summary.writer.event_file_writer import AtomicCounter

from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.distributed.preemption import SignalHandler
from lab.engine.runs.resume import resumed_config
from lab.engine.runs.run import Run
from lab.engine.training.train import train
from lab.engine.utils.errors import Preempted
from tests.conftest import Compose

# 10 batches an epoch
BASE = [
    "data.num_samples=600",
    "data.num_val=100",
    "data.batch_size=50",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=4",
]
CLASSIFIER = [*BASE, "model=mlp", "model.dropout=0.2", "data.augment=true", "optimizer.lr=3e-3"]
VAE = [*BASE, "model=vae", "model.nll_samples=2"]
GAN = [*BASE, "model=gan", "callbacks.generative_metrics=null", "objective=null"]
WORDS = ["model=gpt", "data=text", "data.num_tokens=20000", "model.dropout=0.1", "trainer.max_epochs=2"]
TOKENS = ["model=gpt", "data.batch_size=16", "model.dropout=0.1", "trainer.max_epochs=2"]
PLATEAU = ["scheduler=plateau", "scheduler.scheduler.patience=0", "+scheduler.scheduler.threshold=0.9"]
IMPATIENT = [f"callbacks.early_stopping.{option}" for option in ("patience=1", "min_delta=0.9")]
IMPATIENT = ["callbacks=early_stopping", *IMPATIENT]


@pytest.fixture(autouse=True)
def _event_files_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a second event files are told apart by a number, and read in the order of their names: 9 after 10."""
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer._global_uid", AtomicCounter(1000))


def start(config: DictConfig) -> None:
    """A run, in a directory that Hydra would have made."""
    Path(config.paths.run_dir).mkdir(parents=True, exist_ok=True)
    train(config)


def stopping_at(steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a signal come before the training loop asks for the n-th time."""
    asked = [0]

    def ask(self: SignalHandler) -> int:
        asked[0] += 1
        return 15 if asked[0] in steps else 0

    monkeypatch.setattr(SignalHandler, "received", ask)


def result(run: Run) -> dict[str, Any]:
    last = read_checkpoint(run.checkpoint("last"))
    best = run.dir / "checkpoints" / "best.ckpt"
    figures = {
        name: value for name, value in run.metrics.items() if name not in ("train/samples_per_second", "cost/seconds")
    }
    random = last["random"]
    return {
        "weights": last["state_dict"],
        "best": read_checkpoint(best)["state_dict"] if best.exists() else None,  # a GAN without a judge has none
        "optimizer": last["optimizer_states"],
        "schedule": last["lr_schedulers"],
        "figures": figures,
        "kept": [state for name, state in last["callbacks"].items() if name == "Checkpoint"],
        "stopping": [state for name, state in last["callbacks"].items() if name.startswith("EarlyStopping")],
        "random": random,
        "curve": curve(run),
    }


def curve(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Every curve of the TensorBoard but speed: what it shows, steps drawn twice only once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.dir / "tensorboard"))
    events.Reload()
    names = [
        name for name in events.Tags()["scalars"] if "samples_per_second" not in name and not name.startswith("final")
    ]
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in names}


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, (where, a, b)


# the loop asks after each batch but the last of an epoch, and after each epoch: ten times an epoch
CASES = {
    "end of an epoch": (CLASSIFIER, [10]),
    "mid-epoch": (CLASSIFIER, [13]),
    "the first step": (CLASSIFIER, [1]),
    "the last step": (CLASSIFIER, [30]),
    "twice": (CLASSIFIER, [4, 17]),
    "accumulation": ([*CLASSIFIER, "trainer.accumulate_grad_batches=3"], [2, 6]),
    "onecycle": ([*CLASSIFIER, "scheduler=onecycle"], [7]),
    "plateau": (
        [*CLASSIFIER, "scheduler=plateau", "scheduler.scheduler.patience=0", "+scheduler.scheduler.threshold=0.9"],
        [10, 20],
    ),
    "plateau, validation within an epoch": ([*CLASSIFIER, *PLATEAU, "trainer.val_check_interval=4"], [5, 19]),
    "early stopping, validation within an epoch": (
        [
            *CLASSIFIER,
            *IMPATIENT,
            "+callbacks.early_stopping.check_on_train_epoch_end=true",
            "trainer.val_check_interval=4",
        ],
        [9, 19],
    ),
    **{
        f"precision {precision}": ([*CLASSIFIER, "callbacks=ema", f"trainer.precision={precision}"], [13])
        for precision in ("64-true", "bf16-mixed", "bf16-true")
    },
    "ema": ([*CLASSIFIER, "callbacks=ema", "callbacks.ema.decay=0.8"], [10, 14]),
    "layers that learn later": (
        [*BASE, "model=cnn", "callbacks=[ema,finetune]", "callbacks.ema.decay=0.8"],
        [8, 14],
    ),
    "layers that learn later, momentum": (
        [*BASE, "optimizer=sgd", "optimizer.lr=0.01", "callbacks=finetune", "callbacks.finetune.frozen=[features.*]"],
        [13],
    ),
    "early stopping": (
        [
            *CLASSIFIER,
            "callbacks=early_stopping",
            "callbacks.early_stopping.patience=1",
            "callbacks.early_stopping.min_delta=0.9",
        ],
        [10, 15],
    ),
    "validation within an epoch": ([*CLASSIFIER, "trainer.val_check_interval=0.3"], [3, 14]),
    "max_steps": ([*CLASSIFIER, "trainer.max_steps=27"], [10, 13]),
    "best two": ([*CLASSIFIER, "callbacks.checkpoint.top_k=2"], [13, 20]),
    "workers": ([*CLASSIFIER, "data.num_workers=2"], [5, 13]),
    "lightning's loop": ([*CLASSIFIER, "fast_loop=false"], [5, 10]),
    "momentum": ([*CLASSIFIER, "optimizer=sgd", "scheduler=cosine"], [13]),
    "vae": (VAE, [10, 14]),
    "gan": (GAN, [10, 14]),
    "gan, accumulation": ([*GAN, "trainer.accumulate_grad_batches=2"], [2, 6]),
    "gan, two optimizers": (
        [
            *(*GAN, "model.loss=wgan_gp", "model.n_critic=3", "model.spectral_norm=true"),
            *(
                "trainer.gradient_clip_val=0.1",
                "optimizer@model.discriminator_optimizer=sgd",
                "model.discriminator_optimizer.lr=0.01",
            ),
        ],
        [4, 13],
    ),
    "gpt": ([*WORDS, "data.batch_size=16"], [3]),
    "a token file": (["data=tokens", "data.path=${paths.data_dir}/tokens.npy", *TOKENS], [3, 20]),
    "batch norm": ([*BASE, "model=cnn"], [13]),
}


QUICK = ["end of an epoch", "mid-epoch", "validation within an epoch"]


@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_resumed_equals_straight(case: str, cfg: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides, stops = CASES[case]
    with monkeypatch.context() as patch:
        stopping_at([], patch)
        start(cfg(*overrides, f"paths.run_dir={tmp_path}/straight"))
    config = cfg(*overrides, f"paths.run_dir={tmp_path}/stopped")
    stopping_at(stops, monkeypatch)
    for i in range(len(stops)):
        with pytest.raises(Preempted) as stopped:
            start(config)
        assert stopped.value.code == 143
        run = Run(tmp_path / "stopped")
        assert run.status == "preempted"
        torch.manual_seed(99 + i)  # what the next process begins with is of no matter
        config = resumed_config(cfg(f"resume='{run.dir}'"))
    start(config)
    assert run.status == "completed"
    assert len(run.metadata["resumed"]) == len(stops)
    assert_equal(result(Run(tmp_path / "straight")), result(run))


def test_a_run_that_stopped_early_and_was_interrupted_later_is_not_trained_on(
    cfg: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*CLASSIFIER, *IMPATIENT, "trainer.max_epochs=9"]
    start(cfg(*overrides, f"paths.run_dir={tmp_path}/straight"))

    def interrupted(*_: Any, **__: Any) -> None:
        raise Preempted(15)

    with monkeypatch.context() as patch:
        patch.setattr("pytorch_lightning.Trainer.test", interrupted)
        with pytest.raises(Preempted):
            start(cfg(*overrides, f"paths.run_dir={tmp_path}/stopped"))
    run = Run(tmp_path / "stopped")
    start(resumed_config(cfg(f"resume='{run.dir}'")))
    assert read_checkpoint(run.checkpoint("last"))["epoch"] < 9
    assert_equal(result(Run(tmp_path / "straight")), result(run))
