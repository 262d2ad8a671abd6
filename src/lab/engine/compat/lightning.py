"""Adds to Lightning's training loop a point between two batches where a run can be saved, stopped and resumed.

Lightning saves checkpoints while a batch is still being processed, and on resuming guesses which parts of it were done:
a resumed run would not be the same run to the bit. Here a checkpoint is saved when a batch, or an epoch, is finished
with all that follows it (validation, schedules, logging), and a resumed run starts with the next one. Of loaders
without a state of their own Lightning would repeat the first batches of another order.

Public wish: a hook `on_step_boundary` of callbacks, one before a training loader's iterator is made, a method that ends
a fit, and signal handlers that can be turned off.
"""

import logging
import time
import warnings
from collections.abc import Collection
from typing import Any, Protocol

import pytorch_lightning as pl
from lightning_fabric.utilities.types import _Stateful
from pytorch_lightning.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.loops.optimization.automatic import Closure, ClosureResult
from pytorch_lightning.loops.progress import _BatchProgress
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.trainer.call import _call_callback_hooks, _call_strategy_hook
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lab.engine.utils.errors import Preempted
from lab.engine.utils.random_state import random_state, restore_random_state
from lab.engine.utils.replay import EpochReplay, generators, inexact

log = logging.getLogger(__name__)

# Hooks that Lightning calls for each batch and the fast path leaves out
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
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class StopSignal(Protocol):
    """Describes the signal handler of `distributed.preemption`, which tells a loop to stop."""

    in_loop: bool  # whether the loop polls `received`; outside of it a signal ends the run at once

    def install(self) -> None:
        """Replaces the handlers that Lightning has installed, which would stop in the middle of a step."""

    def received(self) -> int:
        """Returns the signal that any rank received, 0 for none; the same on every rank."""


def logged_steps(checkpoint: dict[str, Any]) -> int:
    """Returns the step at which loggers continue after a checkpoint: the number of batches with an optimizer step.

    Args:
        checkpoint: of a Trainer, whose `global_step` counts the steps of each optimizer.
    """
    return checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]


def steps_of_loggers(trainer: pl.Trainer) -> int:
    """Returns the number of batches with an optimizer step before this one, by which Lightning logs.

    `trainer.global_step` counts the steps of each optimizer, of which a batch may have several, or none.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def forget_logged(trainer: pl.Trainer, names: Collection[str]) -> None:
    """Makes Lightning forget what was logged at a step.

    Else it logs these values once more at every batch of a step that logs, until there are new ones: under manual
    optimization a step may have several batches.
    """
    _ = trainer.callback_metrics  # takes them over, for whoever asks later
    for metric in (trainer._results or {}).values():
        if metric.meta.on_step and metric.meta.name in names:
            metric.reset()


def find_unused_parameters(trainer: pl.Trainer) -> None:
    """Makes DDP look for the parameters that a backward pass leaves out, unless the strategy says otherwise.

    Public wish: a property of modules that says so, in place of strategies of another name.
    """
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)


class FitLoop(_FitLoop):
    """Runs the epochs, with a point between two of them: `trainer.fit_loop = FitLoop(trainer, signals)`.

    Args:
        trainer: as it was built.
        signals: tells when to stop.
        fast: whether to leave out hooks that nobody uses, see `TrainingEpochLoop`.
    """

    epoch_loop: "TrainingEpochLoop"

    def __init__(self, trainer: pl.Trainer, signals: StopSignal, fast: bool = True) -> None:
        replaced = trainer.fit_loop
        super().__init__(trainer, replaced.min_epochs, replaced.max_epochs)
        self.epoch_loop = TrainingEpochLoop(trainer, replaced.min_steps, replaced.max_steps, signals, fast)
        self.stopped = False
        self._skipped = False
        self.saved: dict[str, Any] | None = None  # the state that the run resumes from

    def stop(self) -> None:
        """Ends the fit after this batch, and sets `stopped`: such a run is not complete."""
        self.stopped = True

    def skip_training(self) -> None:
        """Makes `fit` restore the checkpoint without training: the run is complete already."""
        self._skipped = True

    @property
    def done(self) -> bool:
        return self.stopped or self._skipped or super().done

    @property
    def is_resuming(self) -> bool:
        """Returns False: a resumed epoch draws its batches again, from the restored random state."""
        return False

    def run(self) -> None:
        self.epoch_loop.signals.install()
        super().run()

    def on_run_start(self) -> None:
        self.epoch_loop.signals.in_loop = True
        super().on_run_start()
        if self.saved is not None:
            self.restore_random_state()
            for reason in dict.fromkeys(inexact(self.plain_loaders, self.trainer.current_epoch)):
                if self.trainer.is_global_zero:
                    log.warning("the resumed run is the same run to the bit, except perhaps for this: %s", reason)

    def on_run_end(self) -> None:
        self.epoch_loop.signals.in_loop = False
        super().on_run_end()

    @_Loop.restarting.setter  # type: ignore[attr-defined, untyped-decorator]
    def restarting(self, restarting: bool) -> None:
        epoch = self.epoch_progress.current  # Lightning considers every run with max_steps to be within an epoch
        _Loop.restarting.fset(self, restarting and epoch.processed < epoch.started)  # type: ignore[attr-defined]

    @property
    def loaders(self) -> list[Any]:
        """Returns the loaders of training, then those of validation."""
        combined = (self._combined_loader, self.epoch_loop.val_loop._combined_loader)
        return [loader for each in combined if each is not None for loader in each.flattened]

    @property
    def plain_loaders(self) -> list[Any]:
        """Returns the loaders of training if any of them has no state of its own, and none otherwise.

        Where one is read again, all are: they are read together.
        """
        loaders = [] if self._combined_loader is None else self._combined_loader.flattened
        return [] if all(isinstance(loader, _Stateful) for loader in loaders) else loaders

    def _load_combined_loader_states(self) -> None:
        """Saves the random state where Lightning would load the state of loaders, before it makes their iterator.

        The epoch loop loads it: here it would be too early for some (`trainer.estimated_stepping_batches` sets the data
        up before a checkpoint is read).
        """
        assert self._combined_loader is not None
        self.epoch_loop.replay.before_iterators(self._combined_loader.flattened)

    @property
    def loader_states(self) -> list[Any]:
        """Returns the saved states of loaders: those of this rank, or of rank 0 if the number of ranks has changed."""
        return self._combined_loader_states_to_load if self.saved is None else self.saved["loaders"]

    def random_state(self) -> dict[str, Any]:
        """Returns the state that decides the next batches and random numbers of this rank."""
        fetcher, combined = self._data_fetcher, self._combined_loader
        prefetched = len(getattr(fetcher, "batches", ()))
        states = [] if combined is None else combined._state_dicts()
        return random_state(generators(self.loaders)) | {
            "epoch": self.epoch_loop.replay.state_dict() if self.plain_loaders else {},
            "loaded_in_epoch": self._last_train_dl_reload_epoch,
            "fetched": 0 if fetcher is None else fetcher.fetched - prefetched,
            "loaders": self.epoch_loop.states_before_fetch if prefetched else states,
        }

    def restore_random_state(self) -> None:
        """Restores the random state that was saved with the run."""
        assert self.saved is not None
        restore_random_state(self.saved, generators(self.loaders))
        self._last_train_dl_reload_epoch = self.saved["loaded_in_epoch"]

    def resume_at(self, state: dict[str, Any]) -> None:
        """Makes the fit continue from a state that `random_state` returned."""
        self.saved = state

    def clear_restart(self) -> None:
        """Makes a resumed epoch continue with its next batch: the one before is finished."""
        self.restarting = False
        self.saved = None

    def on_advance_end(self) -> None:
        super().on_advance_end()
        self.epoch_loop.on_step_boundary(end_of_epoch=True)


class BatchProgress(_BatchProgress):
    """Counts batches."""

    def set_last(self, is_last: bool) -> None:
        """Sets whether the current batch is the last of its epoch."""
        self.is_last_batch = is_last


class TrainingEpochLoop(_TrainingEpochLoop):
    """Runs the batches of an epoch, with a point between two of them and a fast path through each.

    For each batch Lightning calls some thirty hooks, most of them empty, at 5 to 15 microseconds each: a third of a
    small model's step. The fast path leaves them out where a run uses none of them. Every other run, and everything
    around a batch, goes through Lightning's own code.
    """

    def __init__(
        self, trainer: pl.Trainer, min_steps: int | None, max_steps: int, signals: StopSignal, fast: bool
    ) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.batch_progress = BatchProgress()
        self.signals = signals
        self.fast = fast
        self.replay = EpochReplay()
        self.states_before_fetch: list[Any] = []  # of loaders with state, where a batch is fetched ahead

    @property
    def done(self) -> bool:
        return self.trainer.fit_loop.stopped or super().done  # type: ignore[attr-defined]

    def reset(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
            super().reset()

    def on_run_start(self, data_fetcher: Any) -> None:
        trainer = self.trainer
        module, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
        if trainer.current_epoch > 0:  # the iterator of the first epoch is there already
            self.replay.before_iterators(data_fetcher.combined_loader.flattened)
        if self.restarting and not trainer.fit_loop.plain_loaders:  # type: ignore[attr-defined]
            data_fetcher.combined_loader._load_state_dicts(trainer.fit_loop.loader_states)  # type: ignore[attr-defined]
            iter(data_fetcher)
        super().on_run_start(data_fetcher)  # counts the batches that were done as fetched
        if self.restarting and trainer.fit_loop.saved is not None:  # type: ignore[attr-defined]
            if trainer.fit_loop.plain_loaders:  # type: ignore[attr-defined]
                self._read_again(data_fetcher, trainer.fit_loop.saved)  # type: ignore[attr-defined]
            trainer.fit_loop.restore_random_state()  # type: ignore[attr-defined]
        trainer.fit_loop.clear_restart()  # type: ignore[attr-defined]
        takes_iterator = isinstance(data_fetcher, _DataLoaderIterDataFetcher)
        self._fast = self.fast and uses_no_batch_hooks(trainer) and not takes_iterator
        self._transfers = trainer.strategy.root_device.type != "cpu" or any(
            _overrides(owner, base, TRANSFER_HOOKS)
            for owner, base in ((module, pl.LightningModule), (data, pl.LightningDataModule))
            if owner is not None
        )
        self._takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        # Then there is nothing to do between two batches of the fast path
        self._only_validates_after_epoch = (
            trainer.check_val_every_n_epoch is not None
            and trainer.val_check_batch == trainer.num_training_batches
            and trainer._val_check_time_interval is None
            and not any(c.reduce_on_plateau and c.interval == "step" for c in trainer.lr_scheduler_configs)
        )
        self._boundary_callbacks = [c for c in trainer.callbacks if hasattr(c, "on_step_boundary")]

    def _read_again(self, data_fetcher: _DataFetcher, saved: dict[str, Any]) -> None:
        """Reads the batches of this epoch that were done when the run was saved, and drops them."""
        started, combined = time.monotonic(), data_fetcher.combined_loader
        if self.trainer.current_epoch == 0:
            combined.reset()  # persistent workers draw their seed when they are started, in the first epoch
        self.replay.load_state_dict(saved["epoch"], combined.flattened)
        iter(data_fetcher)
        takes_iterator = isinstance(data_fetcher, _DataLoaderIterDataFetcher)
        batches: Any = next(data_fetcher) if takes_iterator else data_fetcher  # type: ignore[call-overload]
        for _ in range(saved["fetched"]):
            next(batches)
            if signum := self.signals.received():
                raise Preempted(signum)
        if self.trainer.is_global_zero:
            log.info("read %d batches again in %.1f s", saved["fetched"], time.monotonic() - started)

    def _on_before_fetch(self) -> None:
        fetcher = self.trainer.fit_loop._data_fetcher
        assert fetcher is not None
        ahead = fetcher.length is None  # as Lightning does where it cannot know the last batch otherwise
        self.replay.before_batch(fetcher.fetched, ahead)
        if ahead:
            self.states_before_fetch = fetcher.combined_loader._state_dicts()
        super()._on_before_fetch()

    def advance(self, data_fetcher: Any) -> None:
        if not self._fast:
            super().advance(data_fetcher)
            return
        trainer, module, connector = self.trainer, self.trainer.lightning_module, self.trainer._logger_connector
        progress: Any = self.batch_progress

        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        progress.set_last(data_fetcher.done)
        if self._transfers:
            batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
            batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        progress.increment_ready()
        connector.on_batch_start(batch)
        _call_callback_hooks(trainer, "on_train_batch_start", batch, batch_idx)
        progress.increment_started()
        outputs = {} if batch is None else self._step(batch, batch_idx)
        progress.increment_processed()

        for config in trainer.lr_scheduler_configs:
            if config.interval == "step" and not config.reduce_on_plateau and (batch_idx + 1) % config.frequency == 0:
                self.scheduler_progress.increment_ready()
                config.scheduler.step()
                self.scheduler_progress.increment_completed()
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)

        _call_callback_hooks(trainer, "on_train_batch_end", outputs, batch, batch_idx)
        progress.increment_completed()
        if connector.should_update_logs or trainer.fast_dev_run:  # sends what this step logged to the loggers
            connector.on_batch_end()
            connector.update_train_step_metrics()

    def _step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Takes one optimizer step, with a closure like Lightning's; returns the outputs of `training_step`."""
        progress = self.automatic_optimization.optim_progress.optimizer
        [optimizer] = self.trainer.optimizers
        arguments = (batch, batch_idx) if self._takes_index else (batch,)

        def forward() -> ClosureResult:
            output = _call_strategy_hook(self.trainer, "training_step", *arguments)
            return ClosureResult.from_training_step_output(output)

        def zero_grad() -> None:
            progress.zero_grad.increment_ready()
            progress.zero_grad.increment_started()
            optimizer.zero_grad()
            progress.zero_grad.increment_completed()

        closure = Closure(forward, Tensor.backward, zero_grad)
        progress.step.increment_ready()
        optimizer.step(closure)
        progress.step.increment_completed()
        result = closure.consume_result()
        return {} if result.loss is None else result.asdict()

    def on_advance_end(self, data_fetcher: Any) -> None:
        trainer = self.trainer
        if (
            self._fast
            and self._only_validates_after_epoch
            and not self.batch_progress.is_last_batch
            and not trainer.should_stop
        ):
            self._batches_that_stepped += 1
        else:
            super().on_advance_end(data_fetcher)
        if not self.batch_progress.is_last_batch and not self._should_accumulate():
            self.on_step_boundary(end_of_epoch=False)

    def on_step_boundary(self, end_of_epoch: bool) -> None:
        """Lets callbacks save, and stops on a signal, when a batch or an epoch is finished and no other has started.

        Calls the method `on_step_boundary(trainer, end_of_epoch, stopping)` of callbacks that have one.
        """
        signum = self.signals.received()
        for callback in self._boundary_callbacks:
            callback.on_step_boundary(self.trainer, end_of_epoch=end_of_epoch, stopping=signum != 0)
        if signum:
            raise Preempted(signum)

    def _broadcast_sigterm_tensor(self) -> None:
        """Does nothing: `StopSignal` replaces Lightning's way of stopping, a broadcast for each batch."""


def uses_no_batch_hooks(trainer: pl.Trainer) -> bool:
    """Returns whether nothing in this run depends on the hooks that the fast path leaves out."""
    module = trainer.lightning_module
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.precision_plugin) is Precision
        and type(trainer.profiler) is PassThroughProfiler  # type: ignore[attr-defined]
        and trainer.accumulate_grad_batches == 1
        and not trainer.gradient_clip_val
        and not trainer._detect_anomaly
        and module.automatic_optimization
        and len(trainer.optimizers) == 1
        and not _overrides(module, pl.LightningModule, MODULE_HOOKS)
        and not any(_overrides(callback, pl.Callback, CALLBACK_HOOKS) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    )


def _overrides(owner: Any, base: type, hooks: tuple[str, ...]) -> bool:
    return any(getattr(getattr(owner, hook), "__func__", None) is not getattr(base, hook) for hook in hooks)
