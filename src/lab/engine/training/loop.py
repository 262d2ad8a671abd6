"""The training loop: Lightning's, with a point between two batches where a run can be saved and stopped, and without
the hooks that nobody hangs on.

For each batch Lightning calls some thirty hooks, most of which do nothing, at 5 to 15 microseconds each: a third of
the time of a small model's step. Where a run uses none of them, it does what they leave: forward, backward, step.
Everything around a batch, and every run that does use them, is Lightning's own. `quick_loop=false` turns it off.

Lightning takes checkpoints in the middle of things, and guesses on the way back what of a batch had been done. Here
nothing is left to guess: a checkpoint is taken when a batch, or an epoch, is done with all that follows it, validation,
schedules and logging included, and a resumed run begins with the next one.
"""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.optim import LBFGS

from lab.data.tensors import TensorDataModule
from lab.engine.checkpointing.callback import Checkpoint
from lab.engine.compat.lightning import NoSignals
from lab.engine.distributed.preemption import SignalHandler
from lab.engine.utils.errors import Preempted

# What Lightning would call between the start and the end of a batch, and this loop does not
MODULE_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "optimizer_step",
    "optimizer_zero_grad",
    "backward",
    "configure_gradient_clipping",
    "lr_scheduler_step",
)
CALLBACK_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
DATA_HOOKS = ("on_before_batch_transfer", "on_after_batch_transfer")


def install(trainer: pl.Trainer, stop: SignalHandler, quick: bool) -> None:
    """Gives `trainer` this loop in place of Lightning's.

    Args:
        trainer: as it was built.
        stop: tells when to stop.
        quick: whether to leave out hooks that nobody hangs on.
    """
    theirs = trainer.fit_loop
    trainer.fit_loop = FitLoop(trainer, min_epochs=theirs.min_epochs, max_epochs=theirs.max_epochs)
    trainer.fit_loop.epoch_loop = TrainingEpochLoop(trainer, theirs.min_steps, theirs.max_steps, stop, quick)
    trainer._signal_connector = NoSignals(trainer)


def is_plain(trainer: pl.Trainer) -> bool:
    """Whether nothing in this run hangs on the hooks that the loop leaves out."""
    module, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.precision_plugin) is Precision
        and type(trainer.profiler) is PassThroughProfiler  # type: ignore[attr-defined]
        and trainer.accumulate_grad_batches == 1
        and not trainer.gradient_clip_val
        and not trainer._detect_anomaly
        and module.automatic_optimization
        and len(trainer.optimizers) == 1
        and not isinstance(trainer.optimizers[0], LBFGS)  # asks for the loss several times a step
        and isinstance(data, TensorDataModule)
        and data.num_workers == 0  # its batches are on the device already
        and not _overridden(module, pl.LightningModule, MODULE_HOOKS)
        and not _overridden(data, pl.LightningDataModule, DATA_HOOKS)
        and not any(_overridden(callback, pl.Callback, CALLBACK_HOOKS) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    )


def _overridden(thing: Any, base: type, hooks: tuple[str, ...]) -> bool:
    return any(getattr(type(thing), hook) is not getattr(base, hook) for hook in hooks)


class FitLoop(_FitLoop):
    """Lightning's loop over epochs, with a point between two of them."""

    epoch_loop: "TrainingEpochLoop"
    over = False  # whether a run that is resumed has been trained to its end
    stopped = False

    def stop(self) -> None:
        """Ends the fit after this batch; such a run has not come to its end, and `stopped` says so."""
        self.stopped = True

    @property
    def done(self) -> bool:
        return self.over or self.stopped or super().done

    def on_run_start(self) -> None:
        self.epoch_loop.stop.in_loop = True
        super().on_run_start()

    def on_run_end(self) -> None:
        self.epoch_loop.stop.in_loop = False
        super().on_run_end()

    @_Loop.restarting.setter  # type: ignore[attr-defined, untyped-decorator]
    def restarting(self, restarting: bool) -> None:
        epoch = self.epoch_progress.current  # Lightning's own takes every run with max_steps for one amid an epoch
        _Loop.restarting.fset(self, restarting and epoch.processed < epoch.started)  # type: ignore[attr-defined]

    def on_advance_end(self) -> None:
        super().on_advance_end()
        self.epoch_loop.between(end_of_epoch=True)


class TrainingEpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with a point between two of them and a shorter way through one."""

    def __init__(
        self, trainer: pl.Trainer, min_steps: int | None, max_steps: int, stop: SignalHandler, quick: bool
    ) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.stop = stop
        self.quick = quick

    @property
    def done(self) -> bool:
        return self.trainer.fit_loop.stopped or super().done  # type: ignore[attr-defined]

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        trainer = self.trainer
        trainer.fit_loop.restarting = False  # nothing is left of the batch before
        self._plain = self.quick and is_plain(trainer)
        self._keepers = [c for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoint)]
        # Between two batches there is nothing to do but to count, where validation waits for the end of the epoch and
        # no schedule watches a metric step by step.
        self._validates_at_the_end = (
            trainer.check_val_every_n_epoch is not None
            and trainer.val_check_batch == trainer.num_training_batches
            and trainer._val_check_time_interval is None
            and not any(c.reduce_on_plateau and c.interval == "step" for c in trainer.lr_scheduler_configs)
        )
        self._starting, self._ending = (
            [c for c in trainer.callbacks if _overridden(c, pl.Callback, (hook,))]
            for hook in ("on_train_batch_start", "on_train_batch_end")
        )

    def advance(self, data_fetcher: Any) -> None:
        if not self._plain:
            super().advance(data_fetcher)
            return
        trainer, module, connector = self.trainer, self.trainer.lightning_module, self.trainer._logger_connector
        [optimizer] = trainer.optimizers
        progress, step = self.batch_progress, self.automatic_optimization.optim_progress.optimizer

        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        progress.increment_ready()
        connector._first_loop_iter = batch_idx == 0
        self._results.batch = batch
        self._results.batch_size = None
        module._current_fx_name = "on_train_batch_start"
        for callback in self._starting:
            callback.on_train_batch_start(trainer, module, batch, batch_idx)
        progress.increment_started()

        module._current_fx_name = "training_step"
        outputs = module.training_step(batch, batch_idx)
        loss = outputs["loss"]
        step.zero_grad.increment_ready()
        step.zero_grad.increment_started()
        optimizer.zero_grad()
        step.zero_grad.increment_completed()
        loss.backward()
        step.step.increment_ready()
        optimizer.step()
        step.step.increment_completed()
        progress.increment_processed()

        for config in trainer.lr_scheduler_configs:
            if config.interval == "step" and not config.reduce_on_plateau and (batch_idx + 1) % config.frequency == 0:
                self.scheduler_progress.increment_ready()
                config.scheduler.step()
                self.scheduler_progress.increment_completed()
        if progress.is_last_batch:
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)

        module._current_fx_name = "on_train_batch_end"
        outputs = {name: value.detach() if value.requires_grad else value for name, value in outputs.items()}
        for callback in self._ending:
            callback.on_train_batch_end(trainer, module, outputs, batch, batch_idx)
        module._current_fx_name = None
        progress.increment_completed()
        if connector.should_update_logs or trainer.fast_dev_run:  # what was logged for this step reaches the loggers
            connector.on_batch_end()
            connector.update_train_step_metrics()

    def on_advance_end(self, data_fetcher: Any) -> None:
        trainer = self.trainer
        if (
            self._plain
            and self._validates_at_the_end
            and not self.batch_progress.is_last_batch
            and not trainer.should_stop
        ):
            self._batches_that_stepped += 1
        else:
            super().on_advance_end(data_fetcher)
        if not self.batch_progress.is_last_batch and not self._should_accumulate():
            self.between(end_of_epoch=False)

    def between(self, end_of_epoch: bool) -> None:
        """Where a run can be saved and stopped: a batch, or an epoch, is done, and nothing of the next one begun."""
        signum = self.stop.asked()
        for keeper in self._keepers:
            keeper.between(self.trainer, end_of_epoch, stopping=signum != 0)
        if signum:
            raise Preempted(signum)

    def _broadcast_sigterm_tensor(self) -> None:
        """Lightning's own way of stopping, a broadcast for each batch, has nothing to do here."""
