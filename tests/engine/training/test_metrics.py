"""The numbers of a run: those of its best checkpoint, whatever chooses it, and the objective among them."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel, ManualOptimBoringModel, RandomIterableDataset
from torch.utils.data import DataLoader

from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.config.instantiate import ALLOWED
from lab.engine.runs.run import Run
from lab.engine.training.build import build
from lab.engine.training.metrics import TrainMetrics
from lab.engine.training.train import train
from lab.engine.utils.errors import RunFailed
from tests.conftest import SMALL, Compose

# 10 batches an epoch
RUN = [*SMALL, "model=mlp", "data.batch_size=50", "trainer.log_every_n_steps=5", "logger=csv", "optimizer.lr=1e-3"]
MONITOR = "callbacks.checkpoint.monitor"
# The loss falls: the largest is that of the first epoch
FIRST = [f"{MONITOR}=val/loss", "callbacks.checkpoint.mode=max", "trainer.max_epochs=3", "test=false"]
LIGHTNINGS = "_target_: pytorch_lightning.callbacks.ModelCheckpoint"


def rows(directory: Path, name: str) -> dict[int, float]:
    """A curve as CSVLogger wrote it, by step."""
    with (directory / "csv" / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


def test_the_metrics_are_those_of_the_best_checkpoint(cfg: Compose, tmp_path: Path) -> None:
    objective = train(cfg(*RUN, *FIRST))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name in ("train/loss", "train/acc", "val/loss", "val/acc"):
        curve = rows(tmp_path / "run", name)
        assert metrics[name] == pytest.approx(curve[9], rel=1e-5), "of epoch 1, for training as well"
        assert curve[29] != curve[9]
    assert objective == metrics["val/acc"], "a checkpoint that another metric chose does not change the objective"


@pytest.mark.parametrize("more", [[f"{MONITOR}=null"], ["callbacks.checkpoint.top_k=0"], ["callbacks.checkpoint=null"]])
def test_without_a_monitor_the_last_checkpoint_is_the_best(more: list[str], cfg: Compose, tmp_path: Path) -> None:
    objective = train(cfg(*RUN, *FIRST, *more))
    metrics = Run(tmp_path / "run").metrics
    assert objective == metrics["val/acc"] == pytest.approx(rows(tmp_path / "run", "val/acc")[29], rel=1e-5)
    assert metrics["train/loss"] == pytest.approx(rows(tmp_path / "run", "train/loss")[29], rel=1e-5)


@pytest.mark.parametrize("ours", [True, False])
def test_lightnings_checkpoint_callbacks_stand_beside_ours(ours: bool, cfg: Compose, tmp_path: Path) -> None:
    two = [
        f"+callbacks.first={{{LIGHTNINGS}, dirpath: {tmp_path}/run/first, monitor: val/loss, mode: max}}",
        f"+callbacks.all={{{LIGHTNINGS}, dirpath: {tmp_path}/run/all, save_top_k: -1}}",
    ]
    chosen = [f"{MONITOR}=val/loss"] if ours else ["callbacks.checkpoint=null"]
    train(cfg(*RUN, *two, *chosen, "callbacks.checkpoint.mode=min" if ours else "test=false", "trainer.max_epochs=3"))
    assert len(list((tmp_path / "run" / "first").iterdir())) == 1
    assert len(list((tmp_path / "run" / "all").iterdir())) == 3
    step = 29 if ours else 9  # the smallest loss, or what Lightning's callback took for the best
    for name in ("train/loss", "val/loss", "val/acc"):
        assert Run(tmp_path / "run").metrics[name] == pytest.approx(rows(tmp_path / "run", name)[step], rel=1e-5)
    if ours:
        assert read_checkpoint(Run(tmp_path / "run").checkpoint("best"))["global_step"] == 30


@pytest.mark.parametrize("more", [[], ["callbacks.checkpoint=null"], [f"{MONITOR}=val/loss"], [f"{MONITOR}=null"]])
def test_an_objective_that_is_not_logged_ends_the_run_after_its_first_validation(
    more: list[str], cfg: Compose, tmp_path: Path
) -> None:
    with pytest.raises(RunFailed) as told:
        train(cfg(*RUN, "objective.metric=val/accuracy", *more))
    for part in ("objective.metric=val/accuracy", "did you mean val/acc?", "train/loss", "val/loss", "objective=null"):
        assert part in str(told.value)
    assert list(rows(tmp_path / "run", "val/loss")) == [9]
    assert Run(tmp_path / "run").status == "failed"


def test_it_is_missed_within_an_epoch_too_but_not_one_that_comes_with_its_end(cfg: Compose, tmp_path: Path) -> None:
    within = [*RUN, "trainer.val_check_interval=0.3", "trainer.log_every_n_steps=50", "trainer.max_epochs=1"]
    assert train(cfg(*within, "objective.metric=train/loss", "test=false")) is not None
    with pytest.raises(RunFailed, match="train/los was not logged"):
        train(cfg(*within, "objective.metric=train/los", f"paths.run_dir={tmp_path}/other"))
    module, data, trainer = build(cfg(*within, "objective.metric=val/accuracy", "logger=none"))
    with pytest.raises(RunFailed, match="val/accuracy was not logged"):
        trainer.fit(module, datamodule=data)
    assert trainer.global_step == 3


@pytest.mark.parametrize(
    "more",
    [["fit=false"], ["trainer.limit_val_batches=0"], ["trainer.fast_dev_run=true"], ["objective=null"]],
    ids=str,
)
def test_nothing_is_missed_without_a_validation_that_counts(more: list[str], cfg: Compose, tmp_path: Path) -> None:
    missing = [] if more == ["objective=null"] else ["objective.metric=val/accuracy"]
    assert train(cfg(*RUN, "trainer.max_epochs=1", *missing, *more)) is None
    assert Run(tmp_path / "run").status == "completed"


def test_epochs_shorter_than_the_interval_have_a_training_loss(cfg: Compose, tmp_path: Path) -> None:
    short = ["trainer.max_epochs=1", "trainer.accumulate_grad_batches=16", "trainer.log_every_n_steps=50"]
    train(cfg(*RUN, *short, "data.batch_size=10", "test=false"))  # 50 batches, 4 steps
    metrics = Run(tmp_path / "run").metrics
    assert 1 < metrics["train/loss"] < 4, "not divided by 16"
    assert metrics["cost/steps"] == 4


def test_so_have_those_of_a_loader_without_a_length() -> None:
    trainer = pl.Trainer(
        max_epochs=1, callbacks=[TrainMetrics()], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(BoringModel(), train_dataloaders=DataLoader(RandomIterableDataset(32, 7)))
    assert trainer.callback_metrics["train/loss"] > 0


def test_a_step_of_several_batches_is_drawn_once(cfg: Compose, tmp_path: Path) -> None:
    """Under manual optimization Lightning logs at each of them, what was logged last if there is nothing new."""
    gan = ["model=gan", "callbacks.generative_metrics=null", "objective=null", "trainer.max_epochs=1", "optimizer=adam"]
    train(cfg(*RUN, *gan, "trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=2"))
    with (tmp_path / "run" / "csv" / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss_d"]]
    assert steps == [1, 3]
    assert "train/loss_d" in Run(tmp_path / "run").metrics


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("steps", [2, 0])
def test_batches_are_averaged_whatever_number_of_steps_they_take(steps: int, tmp_path: Path) -> None:
    class Several(ManualOptimBoringModel):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.layer.parameters(), lr=0.1) for _ in range(max(1, steps))]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizers = self.optimizers()
            for optimizer in optimizers if isinstance(optimizers, list) else []:
                optimizer.step()
            return {"loss": torch.tensor(1.0), "index": torch.tensor(float(batch_idx))}

    trainer = pl.Trainer(
        max_epochs=1, limit_train_batches=9, limit_val_batches=0, log_every_n_steps=4, callbacks=[TrainMetrics()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        logger=pl.loggers.CSVLogger(tmp_path, "", "csv"),
    )  # fmt: skip
    trainer.fit(Several())
    assert trainer.global_step == 9 * steps, "Lightning counts those of each optimizer"
    assert rows(tmp_path, "train/index") == {3: 1.5, 7: 5.5}
    assert rows(tmp_path, "train/loss") == {3: 1.0, 7: 1.0}


@pytest.mark.parametrize("model", ["mlp", "vae"])
def test_a_sanity_check_changes_no_figure(model: str, cfg: Compose, tmp_path: Path) -> None:
    found = []
    for steps in (0, 2):
        directory = tmp_path / f"sanity-{steps}"
        directory.mkdir()
        more = [f"trainer.num_sanity_val_steps={steps}", f"paths.run_dir={directory}", "trainer.max_epochs=2"]
        train(cfg(*RUN, f"model={model}", *(["model.nll_samples=2"] if model == "vae" else []), *more))
        run = Run(directory)
        metrics = {name: value for name, value in run.metrics.items() if "second" not in name}
        curves = {name: rows(directory, name) for name in metrics if name.startswith(("train", "val"))}
        found.append((metrics, curves, torch.nn.utils.parameters_to_vector(run.model("last").parameters()).tolist()))
    assert found[0] == found[1]


OWN = '''
"""Callbacks as one writes them."""

from dataclasses import dataclass

import pytorch_lightning as pl


class Stop(pl.callbacks.EarlyStopping):
    """Has no constructor of its own."""


@dataclass
class Count(pl.Callback):
    """Is compared by value, and has no hash."""

    every: int = 2
    batches: int = 0

    def on_train_batch_end(self, *_):
        self.batches += 1

    def state_dict(self):
        return {"batches": self.batches}
'''


def test_callbacks_of_ones_own(cfg: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_callbacks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("lab.engine.config.instantiate.ALLOWED", [*ALLOWED, "own_callbacks"])
    own = [
        "+callbacks.stop={_target_: own_callbacks.Stop, monitor: val/acc, mode: min, patience: 0}",
        "+callbacks.count={_target_: own_callbacks.Count, every: 3}",
    ]
    train(cfg(*RUN, *own, "trainer.max_epochs=9", "optimizer.lr=0.01"))
    run = Run(tmp_path / "run")
    assert run.metrics["cost/epochs"] < 9
    assert run.read_checkpoint("last")["callbacks"]["Count"]["batches"] == 10 * run.metrics["cost/epochs"]
