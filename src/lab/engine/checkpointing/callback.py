"""The best checkpoint and the last one."""

import logging
import math
import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning import callbacks

from lab.engine.checkpointing.files import link_checkpoint, remove_partial_files
from lab.engine.utils.errors import RunFailed
from lab.engine.utils.names import nearest
from lab.engine.utils.processes import gather_objects
from lab.engine.utils.random_state import random_state, restore_random_state
from lab.engine.utils.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt

log = logging.getLogger(__name__)


class Checkpoint(callbacks.Checkpoint):
    """Keeps `last.ckpt`, from which a run goes on as if it had never stopped, and `best.ckpt`.

    A checkpoint is taken between two batches or between two epochs, where everything of the one is done and nothing of
    the next begun. `best.ckpt` is a hard link to the `last.ckpt` of its time; without a metric to go by, the last
    checkpoint is the best.

    Args:
        dirpath: folder of the files.
        monitor: the metric that says which is best; None: the last is.
        mode: whether `min` or `max` of it is best.
        top_k: how many of the best to keep; from two on, each as `step-<steps>.ckpt` as well.
        every_n_epochs: epochs from one `last.ckpt` to the next, 0 for none.
        every_n_steps: the same in optimizer steps, besides.
        every_n_minutes: the same in minutes, besides.

    Raises:
        RunFailed: after an epoch with a validation in which `monitor` was not logged.
    """

    def __init__(
        self,
        dirpath: str = "checkpoints",
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        top_k: PositiveInt = 1,
        every_n_epochs: NonNegativeInt = 1,
        every_n_steps: NonNegativeInt = 0,
        every_n_minutes: NonNegativeFloat = 0.0,
    ) -> None:
        self.dirpath = Path(dirpath)
        self.monitor = monitor
        self.sign = {"min": 1.0, "max": -1.0}[mode]
        self.top_k = top_k
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.metrics: dict[str, float] = {}  # the figures at the checkpoint that the run goes on from
        self.kept: dict[str, float] = {}  # by file name, what the best ones scored; the best one first
        self._validated = False  # what was validated is not rated yet
        self._score: float | None = None  # of weights that are among the best and not written yet
        self._random: Any = None  # to be set where training goes on

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.dirpath / "last.ckpt"

    @property
    def best_model_path(self) -> str:
        """The best checkpoint, by the name that Lightning's ModelCheckpoint gives it; empty where there is none yet."""
        path = self.dirpath / "best.ckpt"
        return str(path) if path.is_file() else ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            self.dirpath.mkdir(parents=True, exist_ok=True)
            remove_partial_files(self.dirpath)
            probe = self.dirpath / ".probe.part"  # a folder that cannot be written to is told before the first step
            probe.touch()
            probe.unlink()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if self._random is not None:
            restore_random_state(self._random)
            self._random = None
        resumed, name = trainer.ckpt_path, f"step-{trainer.global_step}.ckpt"
        if resumed and trainer.is_global_zero and name in self.kept:  # its writer may not have come to that
            names = [name] * (self.top_k > 1) + ["best.ckpt"] * (name == next(iter(self.kept)))
            for name in names:
                link_checkpoint(Path(resumed), self.dirpath / name)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated = True

    def on_step_boundary(self, trainer: pl.Trainer, end_of_epoch: bool, stopping: bool) -> None:
        """Saves where it is time to; the loop calls this when a batch, or an epoch, is over and done with."""
        if self._validated and self.monitor is not None:
            self._rate(trainer, end_of_epoch)
        steps, epochs = trainer.global_step, trainer.current_epoch
        if (
            stopping
            or self._score is not None
            or (end_of_epoch and self.every_n_epochs and epochs % self.every_n_epochs == 0)
            or (self.every_n_steps and steps % self.every_n_steps == 0)
            or (self.every_n_minutes and self._minutes_are_over(trainer))
        ):
            self.save(trainer)

    def _rate(self, trainer: pl.Trainer, end_of_epoch: bool) -> None:
        """Says whether what was validated last is among the best."""
        logged = self._logged(trainer)
        if self.monitor not in logged:
            if end_of_epoch:
                raise RunFailed(
                    f"callbacks.checkpoint.monitor={self.monitor} was not logged{nearest(str(self.monitor), logged)}\n"
                    f"logged were: {', '.join(sorted(logged)) or 'none'}\n"
                    "give one of these as objective.metric, or objective=null: then the last checkpoint is the best"
                )
            return  # some metrics are logged at the end of an epoch
        self._validated = False
        score = trainer.strategy.broadcast(logged[self.monitor])  # all ranks decide alike
        worst = list(self.kept.values())[-1] if len(self.kept) >= self.top_k else None
        if math.isfinite(score) and (worst is None or self.sign * score < self.sign * worst):
            self._score = score

    def _logged(self, trainer: pl.Trainer) -> dict[str, float]:
        return self.metrics | {name: float(value) for name, value in trainer.callback_metrics.items()}

    def save(self, trainer: pl.Trainer) -> None:
        """Writes `last.ckpt`, named as one of the best too where it is one. All ranks call it together."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        dropped = self._rank(f"step-{trainer.global_step}.ckpt") if self._score is not None else []
        trainer.save_checkpoint(self.last, weights_only=False)
        if trainer.is_global_zero:
            if self._score is not None:
                name = next(iter(self.kept))
                if self.top_k > 1:
                    link_checkpoint(self.last, self.dirpath / f"step-{trainer.global_step}.ckpt")
                if name == f"step-{trainer.global_step}.ckpt":
                    link_checkpoint(self.last, self.dirpath / "best.ckpt")
            if not self.kept:
                link_checkpoint(self.last, self.dirpath / "best.ckpt")
            for name in dropped:
                (self.dirpath / name).unlink(missing_ok=True)
            for logger in trainer.loggers:  # the curve up to here is on the disk as well
                logger.save()
        trainer.strategy.barrier("checkpoint")  # every name is there for every rank
        self._score = None
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept = state_dict["kept"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["random"] = gather_objects(random_state(), trainer)
        checkpoint["metrics"] = self._logged(trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            self.metrics = checkpoint.get("metrics", {})
            states = checkpoint.get("random", [])
            if len(states) == trainer.world_size:
                self._random = states[trainer.global_rank]
            elif trainer.is_global_zero:
                numbers = (len(states), trainer.world_size)
                log.warning("saved by %d processes, resumed by %d: not the same run to the bit", *numbers)

    def _rank(self, name: str) -> list[str]:
        """Puts what is to be saved as `name` among the best, and gives the names that fall out."""
        assert self._score is not None
        ranked = sorted([*self.kept.items(), (name, self._score)], key=lambda kept: self.sign * kept[1])
        self.kept = dict(ranked[: self.top_k])
        return [name for name, _ in ranked[self.top_k :]]

    def _minutes_are_over(self, trainer: pl.Trainer) -> bool:
        return trainer.strategy.broadcast(time.monotonic() - self._saved_at >= 60 * self.every_n_minutes)
