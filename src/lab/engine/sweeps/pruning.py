"""Ends a trial that does worse than the others of its sweep, as its pruner decides."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lab.engine.runs.recorder import Recorder
from lab.engine.sweeps.samplers import prunes
from lab.engine.sweeps.study import PruningClient, load_trial, sweeper_config

log = logging.getLogger(__name__)


class Pruning(pl.Callback):
    """Reports the sweep's objective after each validation, and ends the run if the sweep's pruner says so.

    Rank 0 alone reports to the study, and broadcasts the answer, so that all ranks end after the same step. The run
    then has the status `pruned`, and is not tested. A run is not pruned after its last validation, and outside of a
    sweep that prunes this does nothing.

    A step is a validation, counted from 1: an epoch, where there is one validation an epoch.

    Args:
        directory: of the run, whose name is the trial's number and above which `sweep.json` lies.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.step = 0
        sweeper = sweeper_config(self.directory.parent) if self.directory.name.isdigit() else {}
        self.metric = sweeper["objectives"][0]["metric"] if prunes(sweeper) else None
        self._client: PruningClient | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            self._client = load_trial(self.directory)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends a resumed run that was killed after the pruner had decided to end it."""
        if self.metric is not None:
            self._end(trainer, self._client is not None and self._client.is_over(self.step))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or self.metric not in trainer.callback_metrics:
            return
        self.step += 1
        last, value = is_last(trainer), float(trainer.callback_metrics[self.metric])
        self._end(trainer, self._client is not None and self._client.report(self.step, value, last))

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]

    def _end(self, trainer: pl.Trainer, pruned: bool) -> None:
        if trainer.strategy.broadcast(pruned):
            trainer.fit_loop.stop()  # type: ignore[attr-defined]
            if trainer.is_global_zero:
                Recorder(self.directory).update(pruned=self.step)
                log.info("pruned after validation %d", self.step)


def is_last(trainer: pl.Trainer) -> bool:
    """Tells whether training ends with the validation that has just ended."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    return (
        trainer.should_stop  # another callback's word
        or (trainer.is_last_batch and epochs is not None and 0 <= epochs <= trainer.current_epoch + 1)
        or 0 <= steps <= trainer.global_step
    )
