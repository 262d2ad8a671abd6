"""The training curve, and the guard that ends a run whose loss is no number any more."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lab.engine.checkpointing.gather import gather_objects
from lab.engine.utils.errors import RunFailed


class TrainMetrics(pl.Callback):
    """Averages what `training_step` returns and logs it as `train/…` every `trainer.log_every_n_steps` steps,
    or once an epoch where that is shorter.

    Sums stay on the device, and ranks are averaged over only when a line is logged: a `self.log` in each
    `training_step` would cost a small model a quarter of its speed.

    Raises:
        RunFailed: when a training or validation loss is NaN or infinite, before a checkpoint could hold it.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        sums = {name: value.cpu() for name, value in self._sums.items()}
        checkpoint["meter"] = gather_objects({"sums": sums, "count": self._count}, trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint.get("meter", [])
        if trainer.state.fn == "fit" and len(states) == trainer.world_size:
            mine = states[trainer.global_rank]
            self._sums = {name: value.to(trainer.strategy.root_device) for name, value in mine["sums"].items()}
            self._count = mine["count"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, value in outputs.items():
            if name in self._sums:
                self._sums[name] += value.detach()
            else:
                self._sums[name] = value.detach().clone()
        self._count += 1
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            pl_module.log_dict(self._means(trainer))
            self._sums, self._count = {}, 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._count and trainer.num_training_batches < trainer.log_every_n_steps:  # type: ignore[attr-defined]
            pl_module.log_dict(self._means(trainer), sync_dist=True)  # the same on every rank already
            self._sums, self._count = {}, 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and self._count:
            self._means(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            _check(trainer, {name: float(value) for name, value in trainer.callback_metrics.items()})

    def _means(self, trainer: pl.Trainer) -> dict[str, float]:
        """The averages so far, over all ranks."""
        means = trainer.strategy.reduce(torch.stack(list(self._sums.values())) / self._count, reduce_op="mean")
        values = {f"train/{name}": value for name, value in zip(self._sums, means.tolist(), strict=True)}
        if "train/loss" in values:
            values["train/loss"] *= trainer.accumulate_grad_batches  # Lightning hands it over divided
        _check(trainer, values)
        return values


def _check(trainer: pl.Trainer, values: dict[str, float]) -> None:
    for name, value in values.items():
        if name.partition("/")[2].startswith("loss") and not math.isfinite(value):
            kept = getattr(trainer.checkpoint_callback, "best", None)
            raise RunFailed(
                f"{name} is {value} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}): the run ends\n"
                f"the last good checkpoint: {kept or 'none yet'}\n"
                "try a lower optimizer.lr, trainer.gradient_clip_val=1.0, or trainer.detect_anomaly=true to find where"
            )
