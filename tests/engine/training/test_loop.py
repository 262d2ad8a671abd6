"""The shorter loop does what Lightning's does, and stands back where it could not."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lab.engine.training.loop import is_plain
from lab.engine.training.train import build
from tests.conftest import SMALL, Compose

RUN = [
    *SMALL,
    "model=mlp",
    "model.dropout=0.1",
    "data.batch_size=50",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=4",
]


def fit(cfg: Compose, tmp_path: Path, *overrides: str) -> dict[str, Any]:
    module, data, trainer = build(cfg(*RUN, f"paths.run_dir={tmp_path}", "logger=csv", *overrides))
    trainer.fit(module, datamodule=data)
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    lines = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()
    speed = lines[0].split(",").index("train/samples_per_second")
    return {
        "weights": kept["state_dict"],
        "optimizer": kept["optimizer_states"],
        "schedule": kept["lr_schedulers"],
        "loops": kept["loops"],
        "curve": [line.split(",")[:speed] + line.split(",")[speed + 1 :] for line in lines],
    }


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["scheduler=plateau"],
        ["scheduler=cosine", "scheduler.frequency=2"],
        ["trainer.val_check_interval=0.5"],
        ["trainer.max_steps=17"],
        ["trainer.check_val_every_n_epoch=2"],
        ["trainer.limit_train_batches=7"],
    ],
    ids=" ".join,
)
def test_it_trains_and_logs_as_lightnings_does(overrides: list[str], cfg: Compose, tmp_path: Path) -> None:
    theirs = fit(cfg, tmp_path / "theirs", "quick_loop=false", *overrides)
    ours = fit(cfg, tmp_path / "ours", *overrides)
    assert ours["curve"] == theirs["curve"]
    assert ours["loops"] == theirs["loops"]
    assert ours["schedule"] == theirs["schedule"]
    for name, value in theirs["weights"].items():
        assert torch.equal(ours["weights"][name], value), name
    for a, b in zip(ours["optimizer"][0]["state"].values(), theirs["optimizer"][0]["state"].values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in b)


class Watcher(pl.Callback):
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen = True


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.gradient_clip_val=1.0"],
        ["trainer.accumulate_grad_batches=2"],
        ["trainer.precision=bf16-mixed"],
        ["trainer.profiler=simple"],
        ["trainer.detect_anomaly=true"],
        ["optimizer=lbfgs", "scheduler=none"],
    ],
    ids=" ".join,
)
def test_it_stands_back_where_a_run_needs_what_it_leaves_out(overrides: list[str], cfg: Compose) -> None:
    module, data, trainer = build(cfg(*RUN, "callbacks=none", "logger=none", "trainer.max_epochs=1", *overrides))
    trainer.fit(module, datamodule=data)
    assert not is_plain(trainer)
    assert trainer.global_step > 0


def test_a_callback_on_a_hook_is_called(cfg: Compose) -> None:
    watcher = Watcher()
    module, data, trainer = build(cfg(*RUN, "callbacks=none", "logger=none", "trainer.max_epochs=1"), [watcher])
    trainer.fit(module, datamodule=data)
    assert watcher.seen


def test_a_step_that_logs_by_itself_is_logged(cfg: Compose, tmp_path: Path) -> None:
    class Noter(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: pl.LightningModule, *_: object) -> None:
            pl_module.log("noted", float(trainer.global_step))
            pl_module.log("average", float(trainer.global_step), on_step=False, on_epoch=True)

    def noted(quick: bool) -> list[str]:
        directory = tmp_path / str(quick)
        module, data, trainer = build(
            cfg(*RUN, f"paths.run_dir={directory}", "logger=csv", "callbacks=none", f"quick_loop={quick}"), [Noter()]
        )
        trainer.fit(module, datamodule=data)
        return (directory / "csv" / "metrics.csv").read_text().splitlines()

    assert noted(quick=True) == noted(quick=False)
