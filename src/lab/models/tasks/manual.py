"""Defines the base of tasks with several optimizers, whose training steps call them."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lab.engine.compat.lightning import find_unused_parameters
from lab.engine.utils.errors import UserError
from lab.models.tasks.task import Task


class ManualTask(Task):
    """Trains by Lightning's manual optimization, with what Lightning does for a single optimizer done for each.

    `trainer.accumulate_grad_batches`, `gradient_clip_val` and the schedule hold for each optimizer by itself. Lightning
    refuses the first two of a module under manual optimization: this one is so from `configure_optimizers` on, which is
    called after that check.
    """

    def configure_callbacks(self) -> list[pl.Callback]:  # Lightning's first call of a fit, before its check
        if self.trainer.training:
            self.automatic_optimization = True
            find_unused_parameters(self.trainer)
        return []

    def configure_optimizers(self) -> Any:
        self.automatic_optimization = False
        return self.make_optimizers()

    def make_optimizers(self) -> Any:
        """Returns what `configure_optimizers` is to return."""
        raise NotImplementedError

    def completes_step(self, batch_idx: int) -> bool:
        """Returns whether this batch is the last whose gradients are accumulated for a step, or that of its epoch."""
        return (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Adds a batch's share of the gradients, outside of autocast: as Lightning does for a single optimizer."""
        with torch.autocast(self.device.type, enabled=False):
            super().manual_backward(loss / self.trainer.accumulate_grad_batches, *args, **kwargs)

    def take_step(self, optimizer: LightningOptimizer, counts: bool = True) -> None:
        """Takes a step with the accumulated gradients, and moves the optimizer's schedule.

        Args:
            optimizer: one of `self.optimizers()`.
            counts: whether `trainer.global_step`, and so `max_steps`, counts it; to be true of one optimizer alone.
        """
        if counts:
            optimizer.step()
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)
        optimizer.zero_grad()
        for config in self.trainer.lr_scheduler_configs:
            if config.scheduler.optimizer is optimizer.optimizer:
                self._move(config, "step", self.trainer.fit_loop.batch_idx + 1)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.clip_gradients(optimizer)  # here gradients are unscaled under 16-mixed; the trainer says how

    def on_train_epoch_end(self) -> None:
        for config in self.trainer.lr_scheduler_configs:
            self._move(config, "epoch", self.current_epoch + 1)

    def _move(self, config: LRSchedulerConfig, interval: str, done: int) -> None:
        """Moves a schedule of this interval, of which so many are done.

        Raises:
            UserError: where the metric that it looks at was not logged.
        """
        if config.interval != interval or done % config.frequency:
            return
        if not isinstance(config.scheduler, ReduceLROnPlateau):
            config.scheduler.step()  # type: ignore[call-arg]
            return
        assert self.scheduler is not None
        monitor, logged = self.scheduler["monitor"], self.trainer.callback_metrics
        if monitor not in logged:
            raise UserError(f"scheduler.monitor={monitor} was not logged; logged were: {', '.join(logged)}")
        config.scheduler.step(logged[monitor])
