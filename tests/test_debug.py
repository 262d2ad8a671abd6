"""Each config of the group `debug` does what its header says."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from torch import Tensor

from lab.engine.runs.run import Run
from lab.engine.training.train import build, train
from lab.engine.utils.paths import CONFIGS
from tests.conftest import SMALL, Compose, choices


class Batches(pl.Callback):
    """Keeps the first tensor of each batch, by stage."""

    def __init__(self) -> None:
        self.train: list[Tensor] = []
        self.val: list[Tensor] = []
        self.test: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.train.append(batch[0].clone())

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        self.val.append(batch[0].clone())

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        self.test.append(batch[0].clone())


def seen(cfg: Compose, *overrides: str) -> Batches:
    batches = Batches()
    composed = cfg(*SMALL, "data.batch_size=50", "data.eval_batch_size=20", *overrides)
    module, data, trainer = build(composed, [batches])
    trainer.fit(module, datamodule=data)
    if composed.test:
        trainer.test(module, datamodule=data, verbose=False)
    return batches


@pytest.mark.parametrize("debug", choices("debug"))
def test_the_newest_run_stays_what_it_was(debug: str, cfg: Compose) -> None:
    assert "logs/debug" in (CONFIGS / "debug" / f"{debug}.yaml").read_text()


def test_fast_takes_one_batch_of_each_stage_and_keeps_nothing(cfg: Compose, tmp_path: Path) -> None:
    batches = seen(cfg, "debug=fast")
    assert [len(stage) for stage in (batches.train, batches.val, batches.test)] == [1, 1, 1]
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("events.*"))


@pytest.mark.parametrize(("words", "count"), [([], 3), (["trainer.overfit_batches=0.1"], 1)])
def test_overfit_takes_the_same_batches_over_and_over(words: list[str], count: int, cfg: Compose) -> None:
    batches = seen(cfg, "debug=overfit", "trainer.max_epochs=4", *words)
    assert len(batches.train) == 4 * count
    for i, batch in enumerate(batches.train):
        assert torch.equal(batch, batches.train[i % count])
    assert len({float(batch.sum()) for batch in batches.train}) == count
    assert not batches.val
    assert not batches.test


@pytest.mark.slow
def test_overfit_learns_its_batches(cfg: Compose, tmp_path: Path) -> None:
    train(cfg("debug=overfit"))
    assert Run(tmp_path / "run").metrics["train/loss"] < 0.1


def test_profile_says_where_the_time_goes(cfg: Compose) -> None:
    module, data, trainer = build(cfg(*SMALL, "data.batch_size=50", "debug=profile"))
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch == 1
    summary = trainer.profiler.summary()  # type: ignore[attr-defined]
    for part in ("run_training_batch", "val_next", "optimizer_step"):
        assert part in summary


@pytest.mark.filterwarnings("ignore:Error detected in")
def test_anomaly_names_the_operation_whose_gradient_is_no_number(cfg: Compose) -> None:
    class Root(BoringModel):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # type: ignore[override]
            return (self.layer(batch[0].flatten(1)[:, :32]) * 0).sqrt().sum() * 0

    _, data, trainer = build(cfg(*SMALL, "debug=anomaly", "callbacks=none", "logger=none"))
    with pytest.raises(RuntimeError, match="SqrtBackward0"):
        trainer.fit(Root(), datamodule=data)
