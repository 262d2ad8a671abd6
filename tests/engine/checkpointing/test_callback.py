"""When checkpoints are taken, and which are kept."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import ManualOptimBoringModel, RandomDataset

from lab.engine.checkpointing import callback, files, io
from lab.engine.checkpointing.callback import Checkpoint
from lab.engine.checkpointing.files import read_checkpoint, write_checkpoint
from lab.engine.training.build import build
from lab.engine.utils.errors import Preempted
from lab.engine.utils.random_state import random_state, restore_random_state
from tests.conftest import SMALL, Compose

# 10 batches an epoch
RUN = [*SMALL, "model=mlp", "data.batch_size=50", "trainer.max_epochs=2", "logger=none"]


def saved_steps(cfg: Compose, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[int]:
    """The steps at which `last.ckpt` was written."""
    steps = []
    write = files.write_checkpoint

    def note(checkpoint: dict[str, Any], path: Path) -> None:
        steps.append(checkpoint["global_step"])
        write(checkpoint, path)

    monkeypatch.setattr(io, "write_checkpoint", note)
    module, data, trainer = build(cfg(*RUN, *overrides))
    trainer.fit(module, datamodule=data)
    return steps


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], [10, 20]),
        (["every_n_epochs=2", "monitor=null"], [20]),
        (["every_n_epochs=0", "monitor=null"], []),
        (["every_n_epochs=0", "monitor=null", "every_n_steps=10"], [10, 20]),  # the last batch of an epoch
        (["every_n_epochs=0", "monitor=null", "every_n_steps=15"], [15, 20]),  # the end of training
        (["every_n_epochs=0", "every_n_steps=15"], [10, 15, 20]),  # the best
        (["every_n_steps=4"], [4, 8, 10, 12, 16, 20]),
        (["every_n_minutes=1e-9"], list(range(1, 21))),
        (["every_n_minutes=60"], [10, 20]),
    ],
    ids=str,
)
def test_periods(overrides: list[str], steps: list[int], cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [f"callbacks.checkpoint.{override}" for override in overrides]
    assert saved_steps(cfg, monkeypatch, *chosen) == steps


@pytest.mark.slow
def test_with_accumulation_only_whole_steps_are_saved(cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["trainer.accumulate_grad_batches=3", "callbacks.checkpoint.every_n_steps=1"]
    assert saved_steps(cfg, monkeypatch, *overrides) == [1, 2, 3, 4, 5, 6, 7, 8]  # the fourth is the epoch's rest


class Scores(pl.Callback):
    """Has validations score as they are told."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = scores

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("val/score", self.scores[trainer.current_epoch])


@pytest.mark.parametrize(
    ("mode", "top_k", "best", "kept"),
    [
        ("max", 1, 2, []),
        ("min", 1, 5, []),
        ("max", 3, 2, [2, 4, 3]),
        ("min", 2, 5, [5, 1]),
        ("max", -1, 2, [2, 4, 3, 1, 5]),  # all
    ],
)
def test_the_best_are_kept(mode: str, top_k: int, best: int, kept: list[int], cfg: Compose, tmp_path: Path) -> None:
    scores = [0.3, 0.9, 0.5, 0.7, 0.1, float("nan")]  # of epochs 1 to 6
    folder = tmp_path / "checkpoints"
    keeper = Checkpoint(str(folder), "val/score", mode, top_k)
    config = cfg(*RUN, "trainer.max_epochs=6", "callbacks.checkpoint=null")
    module, data, trainer = build(config, [Scores(scores), keeper])
    trainer.fit(module, datamodule=data)
    names = {"last.ckpt", "best.ckpt", *(f"step-{10 * epoch}.ckpt" for epoch in kept)}
    assert {path.name for path in folder.iterdir()} == names
    assert read_checkpoint(folder / "best.ckpt")["global_step"] == 10 * best
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 60
    assert next(iter(keeper.best_scores.values())) == pytest.approx(scores[best - 1])
    assert [int(name[5:-5]) // 10 for name in keeper.best_scores][: len(kept) or 1] == (kept or [best])


def test_with_top_k_0_the_last_is_the_best(cfg: Compose, tmp_path: Path) -> None:
    module, data, trainer = build(cfg(*RUN, "callbacks.checkpoint.top_k=0"))
    trainer.fit(module, datamodule=data)
    best, last = (tmp_path / "run" / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    assert best.samefile(last)
    assert sorted(best.parent.iterdir()) == [best, last]


class Uneven(ManualOptimBoringModel):
    """Steps three times on every other batch."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for _ in range(3 * (batch_idx % 2)):
            super().training_step(batch, batch_idx)


def test_batches_of_several_steps_and_of_none(cfg: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(io, "write_checkpoint", lambda checkpoint, path: steps.append(checkpoint["global_step"]))
    monkeypatch.setattr(callback, "link_checkpoint", lambda path, name: None)
    _, _, trainer = build(
        cfg(*RUN, "objective=null", "trainer.max_epochs=1", "callbacks.checkpoint=null"),
        [Checkpoint(str(tmp_path), every_n_epochs=0, every_n_steps=5)],
    )
    trainer.fit(Uneven(), train_dataloaders=torch.utils.data.DataLoader(RandomDataset(32, 10)))
    assert steps == [6, 12, 15], "once for each multiple of five that was reached"


def test_a_kill_between_writing_and_linking_loses_no_best(cfg: Compose, tmp_path: Path) -> None:
    from lab.engine.runs.recorder import Recorder
    from lab.engine.runs.resume import resumed_config
    from tests.engine.runs.test_resume import start

    config = cfg(*RUN, "callbacks.checkpoint.monitor=val/loss", "callbacks.checkpoint.mode=min", "trainer.max_epochs=2")
    start(config)
    run = Recorder(tmp_path / "run")
    assert run.checkpoint("best").samefile(run.checkpoint("last")), "the loss falls"
    metrics = run.metrics
    run.checkpoint("best").unlink()
    run.write("run.json", {"format": run.metadata["format"], "status": "running"})
    start(resumed_config(cfg(f"resume={run.dir}")))
    assert run.checkpoint("best").samefile(run.checkpoint("last"))
    assert {k: v for k, v in run.metrics.items() if "second" not in k} == {
        k: v for k, v in metrics.items() if "second" not in k
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_with_lightnings_callbacks_as_well_resumes_exactly(
    cfg: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.engine.runs.resume import resumed_config
    from lab.engine.runs.run import Run
    from tests.engine.runs.test_resume import CLASSIFIER, assert_equal, result, start, stopping_at

    target = "_target_: pytorch_lightning.callbacks.ModelCheckpoint, dirpath: '${paths.run_dir}/"
    more = [
        f"+callbacks.top={{{target}top', monitor: val/loss, save_top_k: 2}}",
        f"+callbacks.all={{{target}all', save_top_k: -1, save_last: true}}",
    ]
    overrides = [*CLASSIFIER, *more]
    with monkeypatch.context() as patch:
        stopping_at([], patch)
        start(cfg(*overrides, f"paths.run_dir={tmp_path}/straight"))
    stopping_at([13], monkeypatch)
    with pytest.raises(Preempted):
        start(cfg(*overrides, f"paths.run_dir={tmp_path}/stopped"))
    straight, stopped = Run(tmp_path / "straight"), Run(tmp_path / "stopped")
    start(resumed_config(cfg(f"resume='{stopped.dir}'")))
    assert_equal(result(straight), result(stopped))
    for folder in ("top", "all", "checkpoints"):
        kept = [sorted(path.name for path in (run.dir / folder).iterdir()) for run in (straight, stopped)]
        assert kept[0] == kept[1]
        assert len(kept[0]) == {"top": 2, "all": 4, "checkpoints": 2}[folder]


def test_random_states_come_back(tmp_path: Path) -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.randn(1).item()]

    draw()
    write_checkpoint({"random": random_state()}, tmp_path / "state.ckpt")
    expected = draw()
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    restore_random_state(read_checkpoint(tmp_path / "state.ckpt")["random"])
    assert draw() == expected


def test_a_moving_average_is_what_is_tested(cfg: Compose, tmp_path: Path) -> None:
    from lab.engine.runs.run import Run
    from tests.engine.runs.test_resume import start

    config = cfg(*RUN, "callbacks=ema", "callbacks.ema.decay=0.9", f"paths.run_dir={tmp_path}/averaged")
    start(config)
    run = Run(tmp_path / "averaged")
    tester = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, barebones=False)
    [measured] = tester.test(run.model("best"), run.datamodule(), verbose=False)
    assert measured == {name: value for name, value in run.metrics.items() if name.startswith("test/")}
    kept = read_checkpoint(run.checkpoint("best"))
    assert any(not torch.equal(kept["state_dict"][n], v) for n, v in kept["current_model_state"].items())
