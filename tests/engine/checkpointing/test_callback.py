"""When checkpoints are taken, and which are kept."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lab.engine.checkpointing import files, io
from lab.engine.checkpointing.callback import Checkpoint
from lab.engine.checkpointing.files import read_checkpoint, write_checkpoint
from lab.engine.training.train import build
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
        (["every_n_steps=4"], [4, 8, 10, 12, 16, 20]),
        (["every_n_minutes=1e-9"], list(range(1, 21))),
        (["every_n_minutes=60"], [10, 20]),
    ],
    ids=str,
)
def test_periods(overrides: list[str], steps: list[int], cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [f"callbacks.checkpoint.{override}" for override in overrides]
    assert saved_steps(cfg, monkeypatch, *chosen) == steps


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
    [("max", 1, 2, []), ("min", 1, 5, []), ("max", 3, 2, [2, 4, 3]), ("min", 2, 5, [5, 1])],
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
