"""Logs the training metrics, saves them, and ends a run whose loss is NaN or infinite or whose objective is missing."""

import math
import re
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lab.engine.checkpointing.callback import best_checkpoint, check_logged, ends_validation
from lab.engine.compat.lightning import forget_logged, steps_of_loggers
from lab.engine.utils.errors import RunFailed
from lab.engine.utils.processes import gather_objects

LOADER = re.compile(r"/dataloader_idx_\d+$")  # what Lightning adds to the name of a metric where loaders are several


class TrainMetrics(pl.Callback):
    """Averages the numbers that `training_step` returns, and logs them as `train/…` every `log_every_n_steps` steps.

    Epochs that are shorter are logged once. Sums stay on the device, and are averaged over ranks only when they are
    logged: a `self.log` in each `training_step` would cost a small model a quarter of its speed.

    Raises:
        RunFailed: when a training or validation loss is NaN or infinite, before a checkpoint could hold it.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._logged: dict[str, float] = {}  # at the last step

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._reset()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        sums = {name: value.cpu() for name, value in self._sums.items()}
        checkpoint["train_metrics"] = gather_objects({"sums": sums, "counts": self._counts}, trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint.get("train_metrics", [])
        if trainer.state.fn == "fit" and len(states) == trainer.world_size:
            state = states[trainer.global_rank]
            self._sums = {name: value.to(trainer.strategy.root_device) for name, value in state["sums"].items()}
            self._counts = dict(state["counts"])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._logged:
            forget_logged(trainer, self._logged)
            self._logged = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, value in (outputs or {}).items():  # nothing for a step that was skipped
            if not (isinstance(value, Tensor) and value.is_floating_point() and value.numel() == 1):
                continue
            if name in self._sums:
                self._sums[name] += value.detach()
                self._counts[name] += 1
            else:
                self._sums[name], self._counts[name] = value.detach().clone(), 1
        has_stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self._sums and has_stepped and (steps_of_loggers(trainer) + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._logged = self._means(trainer)
            pl_module.log_dict(self._logged)
            self._reset()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = (trainer.fit_loop.batch_idx + 1) / trainer.accumulate_grad_batches  # a stream has no length
        if self._sums and steps < trainer.log_every_n_steps:  # type: ignore[attr-defined]
            pl_module.log_dict(self._means(trainer), sync_dist=True)  # they are the same on every rank already
            self._reset()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and self._sums:
            self._means(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            _check(trainer, {name: float(value) for name, value in trainer.callback_metrics.items()})

    def _reset(self) -> None:
        self._sums, self._counts = {}, {}

    def _means(self, trainer: pl.Trainer) -> dict[str, float]:
        """Returns the averages since they were last logged, over all ranks; ends the run if a loss is not finite."""
        device = trainer.strategy.root_device
        means = torch.stack([value.reshape(()).to(device) / self._counts[name] for name, value in self._sums.items()])
        means = trainer.strategy.reduce(means, reduce_op="mean")
        values = dict(zip((f"train/{name}" for name in self._sums), means.tolist(), strict=True))  # type: ignore[union-attr]
        if "train/loss" in values and trainer.lightning_module.automatic_optimization:
            values["train/loss"] *= trainer.accumulate_grad_batches  # Lightning has divided it
        _check(trainer, values)
        return values


class LoggedMetrics(pl.Callback):
    """Keeps the metrics in every checkpoint, and ends a run whose objective is not among them; every run has it.

    A resumed run has those that were logged before, for schedules and callbacks that read them at the end of an epoch.

    Args:
        objective: the metric that says which checkpoint is best; None where none does.

    Raises:
        RunFailed: after the first validation in which `objective` was not logged.
    """

    def __init__(self, objective: str | None = None) -> None:
        self.objective = objective  # None once it was logged
        self._saved: dict[str, float] = {}  # at the checkpoint that the run resumes from
        self._validated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        saved = {name: torch.tensor(value, dtype=torch.float64) for name, value in self._saved.items()}
        trainer.callback_metrics.update(saved)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated |= ends_validation(trainer)

    def on_step_boundary(self, trainer: pl.Trainer, end_of_epoch: bool, stopping: bool) -> None:
        if not self._validated or self.objective is None:
            return
        if check_logged("objective.metric", self.objective, trainer.callback_metrics, end_of_epoch):
            self.objective = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            self._saved = checkpoint.get("metrics", {})
            self.objective = None if self.objective in self._saved else self.objective


def _check(trainer: pl.Trainer, values: dict[str, float]) -> None:
    """Ends the run if a loss among `values` is NaN or infinite."""
    for name, value in values.items():
        if "loss" in LOADER.sub("", name).rpartition("/")[2] and not math.isfinite(value):
            raise RunFailed(
                f"{name} is {value} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}): the run ends\n"
                f"the best checkpoint: {best_checkpoint(trainer) or 'none yet'}\n"
                "try a lower optimizer.lr, trainer.gradient_clip_val=1.0, or trainer.detect_anomaly=true to find where"
            )
