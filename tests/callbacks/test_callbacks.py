"""What the callbacks log, held against counts by hand."""

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringDataModuleNoLen, BoringModel
from torch.utils.data import DataLoader

from lab.callbacks.progress import Progress
from lab.engine.training.build import build
from tests.conftest import SMALL, Compose

RUN = [*SMALL, "data.batch_size=50", "logger=csv", "trainer.log_every_n_steps=4"]


class Recorder(pl.Callback):
    """Keeps the loss of every batch, and its accuracy."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.accuracies: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        self.accuracies.append(float(outputs["acc"]))


def curve(directory: Path, name: str) -> list[float]:
    with (directory / "csv" / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_the_training_curve_is_the_mean_of_the_batches_between_two_points(cfg: Compose, tmp_path: Path) -> None:
    recorder = Recorder()
    module, data, trainer = build(cfg(*RUN, "trainer.max_epochs=2"), [recorder])
    trainer.fit(module, datamodule=data)
    assert len(recorder.losses) == 20
    losses, accuracies = torch.tensor(recorder.losses), torch.tensor(recorder.accuracies)
    assert curve(tmp_path / "run", "train/loss") == pytest.approx(losses.view(5, 4).mean(1).tolist(), rel=1e-5)
    assert curve(tmp_path / "run", "train/acc") == pytest.approx(accuracies.view(5, 4).mean(1).tolist(), rel=1e-5)


def test_accumulation_does_not_shrink_the_loss(cfg: Compose, tmp_path: Path) -> None:
    recorder = Recorder()
    more = ["trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=5", "trainer.max_epochs=1"]
    module, data, trainer = build(cfg(*RUN, *more), [recorder])
    trainer.fit(module, datamodule=data)
    mean = 2 * sum(recorder.losses) / 10  # Lightning hands the loss over divided by two
    assert curve(tmp_path / "run", "train/loss") == [pytest.approx(mean, rel=1e-5)]


def test_an_epoch_shorter_than_the_interval_has_a_point(cfg: Compose, tmp_path: Path) -> None:
    module, data, trainer = build(cfg(*RUN, "trainer.log_every_n_steps=1000", "trainer.max_epochs=2"))
    trainer.fit(module, datamodule=data)
    assert len(curve(tmp_path / "run", "train/loss")) == 2


def test_every_epoch_has_a_line(cfg: Compose, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        module, data, trainer = build(cfg(*RUN, "trainer.max_epochs=2"))
        trainer.fit(module, datamodule=data)
    lines = [record.getMessage() for record in caplog.records if record.name == "lab.callbacks.progress"]
    assert [line.split()[:2] for line in lines] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert all("val/acc" in line and "train/loss" in line for line in lines)
    assert "LeNet: 61,706 parameters (features 2,572, head 59,134)" in caplog.text


def test_the_bar_follows_the_epoch_on_a_terminal(cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    module, data, trainer = build(cfg(*RUN, "trainer.max_epochs=1", "callbacks.progress.interval=0.001"))
    bar: Any = trainer.progress_bar_callback
    done: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            done.append(bar._bar.tasks[0].completed)

    trainer.callbacks.append(Watch())  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    assert done == sorted(done)
    assert done[-1] > 5
    assert bar._bar is None, "the terminal is given back"


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_bar_has_no_end_where_the_data_has_no_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(BoringDataModuleNoLen, "train_dataloader", lambda data: DataLoader(data.random_train, 8))
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_model_summary=False, callbacks=[Progress(interval=0.001)],
    )  # fmt: skip
    trainer.fit(BoringModel(), datamodule=BoringDataModuleNoLen())
    assert trainer.global_step == 64


def test_speed_counts_training_alone(cfg: Compose, tmp_path: Path) -> None:
    import time

    class SlowValidation(pl.Callback):
        def on_validation_batch_start(self, *_: Any) -> None:
            time.sleep(1.0)

    module, data, trainer = build(cfg(*RUN, "model=logistic_regression", "trainer.max_epochs=1"), [SlowValidation()])
    began = time.monotonic()
    trainer.fit(module, datamodule=data)
    [speed] = curve(tmp_path / "run", "train/samples_per_second")
    assert 500 / speed < time.monotonic() - began - 1.0, "the second that validation took is not counted"


def test_early_stopping_stops(cfg: Compose) -> None:
    more = ["callbacks=early_stopping", "callbacks.early_stopping.patience=2", "trainer.max_epochs=50"]
    module, data, trainer = build(cfg(*RUN, *more, "optimizer.lr=0.0", "scheduler=none"))
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch == 3


def test_the_best_checkpoint_is_the_best(cfg: Compose, tmp_path: Path) -> None:
    module, data, trainer = build(cfg(*RUN, "trainer.max_epochs=4", "optimizer.lr=0.02"))
    trainer.fit(module, datamodule=data)
    scores = curve(tmp_path / "run", "val/acc")
    kept = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert kept["epoch"] == scores.index(max(scores)) + 1, "epochs that are over"
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 4


def test_a_line_that_falls_on_the_end_of_a_short_epoch_is_written_once(cfg: Compose, tmp_path: Path) -> None:
    module, data, trainer = build(
        cfg(*RUN, "trainer.max_epochs=3", "trainer.log_every_n_steps=20")
    )  # 10 steps an epoch
    trainer.fit(module, datamodule=data)
    with (tmp_path / "run" / "csv" / "metrics.csv").open() as file:
        steps = [row["step"] for row in csv.DictReader(file) if row["train/loss"]]
    assert len(steps) == len(set(steps)) == 3
