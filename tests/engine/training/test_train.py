"""Whole runs, as a user starts them."""

import json
import math
import re
import subprocess
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel, RandomDataset, RandomIterableDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lab.engine.runs.run import Run
from lab.engine.training.build import build
from lab.engine.training.model import explain_errors
from lab.engine.training.train import train
from lab.engine.utils.errors import RunFailed, UserError
from lab.models.cnn import CNN
from tests.conftest import SMALL, Command, Compose, run_script

TINY = [*SMALL, "trainer.max_epochs=2", "data.batch_size=50", "trainer.log_every_n_steps=5"]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, data_dir: Path
) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """The run directory and the output of one small run from the command line."""
    logs = tmp_path_factory.mktemp("logs")
    paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={logs}"]
    done = run_script("src/train.py", *paths, *TINY, "optimizer.lr=3e-3")
    assert done.returncode == 0, done.stderr
    return (logs / "latest").resolve(), done


def test_a_run_leaves_the_documented_directory(finished: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    directory, done = finished
    assert re.fullmatch(r"\d\d-\d\d-\d\d-lenet-digits-[0-9a-f]{8}", directory.name)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", directory.parent.name)
    assert directory.parent.parent.name == "runs"
    # code.patch is there where the checkout differs from its commit
    assert {p.name for p in directory.iterdir()} - {"code.patch", ".lock"} == {
        ".hydra", "run.json", "metrics.json", "checkpoints", "tensorboard", "train.log",
    }  # fmt: skip
    assert {p.name for p in (directory / ".hydra").iterdir()} == {"config.yaml", "overrides.yaml", "hydra.yaml"}
    assert {p.name for p in (directory / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert "${dims.image_shape}" in (directory / ".hydra" / "config.yaml").read_text(), "interpolations stay unresolved"
    assert list((directory / "tensorboard").glob("events.*"))
    assert str(directory) in done.stdout


def test_a_run_records_what_it_was(finished: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    directory, _ = finished
    record = json.loads((directory / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["seed"] == 0
    assert record["started"] <= record["finished"]
    assert "optimizer.lr=3e-3" in record["argv"]
    assert {"torch", "pytorch-lightning", "hydra-core", "python"} <= set(record["versions"])
    assert record["devices"].startswith("1 x ")
    metrics = json.loads((directory / "metrics.json").read_text())
    assert {"test/acc", "test/loss", "val/acc", "train/loss"} <= set(metrics)
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())


def test_a_normal_run_prints_no_warning(finished: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    directory, done = finished
    for text in (done.stdout, done.stderr, (directory / "train.log").read_text()):
        assert "warn" not in text.lower()
    assert done.stderr == ""


def test_console_and_log_file_hold_the_same_lines(finished: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    directory, done = finished
    logged = (directory / "train.log").read_text()
    for line in done.stdout.strip().splitlines():
        assert line in logged
    assert len(re.findall(r"^epoch \d/2 ", done.stdout, flags=re.M)) == 2


def test_the_tensorboard_holds_curves_pictures_and_hyperparameters(
    finished: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[0] / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/acc", "val/loss", "val/acc", "test/acc", "lr-AdamW", "final/val/acc"} <= set(
        tags["scalars"]
    )
    assert set(tags["images"]) == {"test/confusion", "test/mistakes"}
    assert [point.step for point in events.Scalars("train/loss")] == [4, 9, 14, 19]
    assert "_hparams_/session_start_info" in events.summary_metadata


@pytest.mark.slow
def test_evaluate_gives_the_figures_of_the_run(
    finished: tuple[Path, "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    directory, _ = finished
    done = run_script("scripts/evaluate.py", f"run={directory}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    measured = json.loads((directory / "evaluation-digits.json").read_text())
    assert measured == {k: v for k, v in Run(directory).metrics.items() if k.startswith("test/")}
    assert f"{measured['test/acc']:.4f}" in done.stdout
    done = run_script("scripts/evaluate.py", f"run={directory}", "checkpoint=last")
    assert done.returncode == 0, done.stderr
    assert (directory / "evaluation-digits-last.json").is_file()
    assert measured == json.loads((directory / "evaluation-digits.json").read_text()), "still the best one's"
    for path in directory.glob("evaluation-*.json"):
        path.unlink()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=nowhere"], ["run=nowhere", "no run directory"]),
        (["data=mnst"], ["data=mnst", "did you mean mnist?"]),
        (["data.batch_siz=3"], ["data.batch_siz", "did you mean data.batch_size?"]),
        (["data.num_val=many"], ["data.num_val=many", "a whole number"]),
        (["checkpoint=first"], ["'first'", "best, last"]),
        (["digits"], ["'digits'", "key=value"]),
    ],
)
def test_evaluate_answers_wrong_words(
    words: list[str], said: list[str], finished: tuple[Path, "subprocess.CompletedProcess[str]"]
) -> None:
    done = run_script("scripts/evaluate.py", f"run={finished[0]}", *words, timeout=20)
    assert done.returncode == 2
    assert all(part in done.stderr for part in said)
    assert "Traceback" not in done.stderr


def test_a_run_without_a_checkpoint_says_so(
    tmp_path: Path, finished: tuple[Path, "subprocess.CompletedProcess[str]"]
) -> None:
    import shutil

    shutil.copytree(finished[0], tmp_path / "copy", ignore=shutil.ignore_patterns("*.ckpt"))
    done = run_script("scripts/evaluate.py", f"run={tmp_path / 'copy'}", timeout=20)
    assert done.returncode == 2
    assert "no checkpoint 'best'" in done.stderr
    (tmp_path / "copy" / "checkpoints").mkdir(exist_ok=True)
    shutil.copy(finished[0] / "checkpoints" / "last.ckpt", tmp_path / "copy" / "checkpoints")
    with pytest.raises(UserError, match="checkpoint=last"):
        Run(tmp_path / "copy").checkpoint()


def test_the_same_seed_gives_the_same_weights_and_another_does_not(cfg: Compose) -> None:
    def weights(*overrides: str) -> torch.Tensor:
        module, data, trainer = build(cfg(*TINY, "model=mlp", "model.dropout=0.2", "data.augment=true", *overrides))
        trainer.fit(module, datamodule=data)
        return torch.nn.utils.parameters_to_vector(module.parameters()).detach()

    quiet = ["callbacks=none", "logger=none"]
    first = weights(*quiet, "seed=0")
    torch.rand(7)
    assert torch.equal(first, weights(*quiet, "seed=0"))
    assert not torch.equal(first, weights(*quiet, "seed=1"))


@pytest.mark.slow
def test_digits_are_learned_within_seconds(cfg: Compose) -> None:
    module, data, trainer = build(
        cfg("data.num_samples=40000", "data.num_val=1000", "trainer.max_epochs=4", "optimizer.lr=8e-3", "logger=none")
    )
    trainer.fit(module, datamodule=data)
    [metrics] = trainer.test(module, datamodule=data, verbose=False)
    assert metrics["test/acc"] > 0.97


def test_train_returns_the_objective_and_tests_the_best(cfg: Compose, tmp_path: Path) -> None:
    composed = cfg(*TINY)
    objective = train(composed)
    metrics = Run(tmp_path / "run").metrics
    assert objective == metrics["val/acc"]
    kept = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert list(kept["callbacks"]["Checkpoint"]["best_scores"].values()) == [objective]


def test_fit_and_test_can_be_left_out(cfg: Compose, tmp_path: Path) -> None:
    train(cfg(*TINY, "test=false"))
    assert not any(name.startswith("test/") for name in Run(tmp_path / "run").metrics)
    assert train(cfg(*TINY, "fit=false", f"paths.run_dir={tmp_path}/other")) is None
    assert set(Run(tmp_path / "other").metrics) == {"test/loss", "test/acc", "test/precision", "test/recall", "test/f1"}


@pytest.mark.parametrize("scheduler", ["none", "onecycle"])
def test_a_share_of_the_batches_that_is_none_is_named(scheduler: str, cfg: Compose) -> None:
    with pytest.raises(UserError, match=r"limit_train_batches"):
        train(cfg(*TINY, f"scheduler={scheduler}", "trainer.limit_train_batches=0.001"))


def test_so_is_a_share_of_nobody_knows_how_many() -> None:
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=1, limit_train_batches=0.5, accelerator="cpu", enable_checkpointing=False, **silent)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"limit_train_batches"), explain_errors(None, 1):
        trainer.fit(BoringModel(), DataLoader(RandomIterableDataset(32, 5)))


def test_a_batch_of_one_sample_is_too_small_for_batch_norm(cfg: Compose) -> None:
    with pytest.raises(UserError, match=r"data\.batch_size=1"):
        train(cfg(*TINY, "model=mlp", "data.batch_size=1"))


def test_so_is_a_last_batch_of_one_sample() -> None:
    class Normalized(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, 2))  # type: ignore[assignment]

        def train_dataloader(self) -> DataLoader[Tensor]:
            return DataLoader(RandomDataset(32, 5), batch_size=4)

    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=1, limit_val_batches=0, accelerator="cpu", enable_checkpointing=False, **silent)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"last batch"), explain_errors(4, 1):
        trainer.fit(Normalized())
    assert trainer.global_step == 1


@pytest.mark.parametrize("logger", ["csv", "none", "[csv,tensorboard]"])
def test_loggers_are_a_choice(logger: str, cfg: Compose, tmp_path: Path) -> None:
    train(cfg(*TINY, f"logger={logger}"))
    assert (tmp_path / "run" / "csv" / "metrics.csv").exists() == ("csv" in logger)
    assert (tmp_path / "run" / "tensorboard").exists() == ("tensorboard" in logger)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(cfg: Compose, tmp_path: Path) -> None:
    class Poison(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
            if trainer.global_step == 13:  # in the second epoch, after a line of the log
                next(pl_module.parameters()).data.fill_(math.nan)

    module, data, trainer = build(cfg(*TINY, "logger=none"), callbacks=[Poison()])
    with pytest.raises(RunFailed, match=r"train/loss is nan at step 15 \(epoch 2\)") as caught:
        trainer.fit(module, datamodule=data)
    assert "checkpoints/best.ckpt" in str(caught.value)
    for name in ("best", "last"):
        kept = torch.load(tmp_path / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert kept["epoch"] == 1, "epochs that are over"
        assert all(value.isfinite().all() for value in kept["state_dict"].values())


@pytest.mark.slow
def test_a_failing_run_exits_with_one_and_says_why(train_command: Command, tmp_path: Path) -> None:
    done = train_command(*TINY, "scheduler=none", "optimizer=sgd", "optimizer.lr=1e30")
    assert done.returncode == 1
    assert re.search(r"error: (train|val)/loss is (nan|inf) at step", done.stderr)
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "logs" / "latest" / "run.json").read_text())["status"] == "failed"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_gpu_trains_as_well_as_a_cpu(precision: str, cfg: Compose) -> None:
    quick = ["data.num_samples=20000", "data.num_val=1000", "trainer.max_epochs=3", "logger=none"]
    module, data, trainer = build(cfg(*quick, "trainer=gpu", f"trainer.precision={precision}"))
    trainer.fit(module, datamodule=data)
    assert next(iter(data.train_dataloader()))[0].is_cuda, "batches are made on the device"
    assert trainer.callback_metrics["val/acc"] > 0.93


def test_matmul_precision_is_set_for_the_run_and_put_back(cfg: Compose, tmp_path: Path) -> None:
    during: list[str] = []

    class Noter(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            during.append(torch.get_float32_matmul_precision())

    for value in ("high", "null"):
        composed = cfg(*TINY, "logger=none", f"matmul_precision={value}", f"paths.run_dir={tmp_path}/{value}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lab.callbacks.throughput.Throughput.on_train_start", Noter.on_train_start)
            train(composed)
        assert torch.get_float32_matmul_precision() == "highest"
        assert Run(tmp_path / value).saved.matmul_precision == composed.matmul_precision
    assert during == ["high", "highest"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_run_goes_on_to_the_same_weights(cfg: Compose, tmp_path: Path) -> None:
    words = [*TINY, "model=cnn", "compile=true", "scheduler=none", "logger=none", "test=false"]

    def weights(name: str) -> dict[str, Tensor]:
        state: dict[str, Tensor] = Run(tmp_path / name).read_checkpoint("last")["state_dict"]
        return state

    train(cfg(*words, f"paths.run_dir={tmp_path}/straight"))
    train(cfg(*words, f"paths.run_dir={tmp_path}/resumed", "trainer.max_epochs=1"))
    train(cfg(*words, f"paths.run_dir={tmp_path}/resumed", f"resume={tmp_path}/resumed"))
    straight, resumed = weights("straight"), weights("resumed")
    assert list(straight) == list(CNN().state_dict())
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.slow
def test_a_sweep_has_a_directory_for_each_job(data_dir: Path, tmp_path: Path) -> None:
    paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}/logs"]
    swept = ["trainer.max_epochs=1", "model=mlp,logistic_regression", "seed=0,1", "logger=none"]
    done = run_script("src/train.py", "-m", *paths, *SMALL, *swept)
    assert done.returncode == 0, done.stderr
    jobs = sorted((tmp_path / "logs" / "sweeps").glob("*/*/*/run.json"))
    assert [job.parent.name for job in jobs] == ["0", "1", "2", "3"]
    assert [json.loads(job.read_text())["seed"] for job in jobs] == [0, 1, 0, 1]
    assert (tmp_path / "logs" / "latest").resolve() == jobs[-1].parent
    assert not [path for path in tmp_path.rglob("*") if "=" in path.name]


@pytest.mark.slow
def test_runs_that_start_together_do_not_meet(data_dir: Path, tmp_path: Path) -> None:
    import concurrent.futures

    paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}/logs"]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: run_script("src/train.py", *paths, *SMALL, "debug=fast"), range(3)))
    assert [d.returncode for d in done] == [0, 0, 0]
    assert len(list((tmp_path / "logs" / "runs").glob("*/*/metrics.json"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_ranks_train_as_one(launcher: str, train_command: Command, data_dir: Path, tmp_path: Path) -> None:
    one = [*TINY, "model=mlp", "model.batch_norm=false", "optimizer.fused=false"]
    assert train_command(*one, "trainer=cpu").returncode == 0
    alone = Run.open("latest", tmp_path / "logs")
    if launcher == "lightning":
        done = train_command(*one, "trainer=ddp_cpu")
    else:
        done = run_script(
            "tests/torchrun.py", f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}/logs", *one, "trainer=ddp_cpu"
        )
    assert done.returncode == 0, done.stderr
    assert "recommended" not in done.stderr
    both = Run.open("latest", tmp_path / "logs")
    assert both.dir != alone.dir
    assert len(list((tmp_path / "logs" / "runs").glob("*/*"))) == 2, "one directory for both ranks"
    assert len(list(both.dir.glob("*.log"))) == 1
    for name in ("train/loss", "val/acc", "test/loss", "test/acc"):
        assert both.metrics[name] == pytest.approx(alone.metrics[name], rel=1e-3)
    first, second = (torch.load(run.checkpoint("last"), weights_only=True)["state_dict"] for run in (alone, both))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_jobs_of_two_ranks_in_a_sweep_each_have_their_directory(data_dir: Path, tmp_path: Path) -> None:
    paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}/logs"]
    done = run_script("src/train.py", "-m", "sweep=lr", "trainer=ddp_cpu", *paths, *SMALL, "model=mlp", "logger=none")
    assert done.returncode == 0, done.stderr
    jobs = sorted((tmp_path / "logs" / "sweeps").glob("*/*/*/run.json"))
    assert [job.parent.name for job in jobs] == ["0", "1", "2"]
    assert len(list((tmp_path / "logs").rglob("metrics.json"))) == 3
    assert [Run(job.parent).config.optimizer.lr for job in jobs] == [0.001, 0.003, 0.01]
    assert all(json.loads(job.read_text())["devices"] == "2 x cpu" for job in jobs)
