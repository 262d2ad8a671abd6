"""Saves the last checkpoint and the best ones."""

import logging
import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
from annotated_types import Ge
from pytorch_lightning import callbacks

from lab.engine.checkpointing.files import link_checkpoint, remove_partial_files
from lab.engine.utils.errors import RunFailed
from lab.engine.utils.names import nearest
from lab.engine.utils.processes import gather_objects
from lab.engine.utils.ranges import NonNegativeFloat, NonNegativeInt

log = logging.getLogger(__name__)


class Checkpoint(callbacks.Checkpoint):
    """Saves `last.ckpt`, from which a run resumes exactly, and `best.ckpt`.

    It saves between two batches or between two epochs, when the one is finished with all that follows it and the next
    has not started; at the end of training too, unless all three periods are 0. `best.ckpt` is a hard link to what
    `last.ckpt` was then; without a `monitor` the last checkpoint is the best.

    Args:
        dirpath: folder of the files.
        monitor: the metric that decides which checkpoint is best; None for the last one.
        mode: whether `min` or `max` of it is best.
        top_k: how many of the best to keep, -1 for all; above one, each is kept as `step-<steps>.ckpt` as well. With 0
            the last checkpoint is the best.
        every_n_epochs: epochs between two `last.ckpt`, 0 for never.
        every_n_steps: optimizer steps between two `last.ckpt`, 0 for never.
        every_n_minutes: minutes between two `last.ckpt`, 0 for never.

    Raises:
        RunFailed: after a validation in which `monitor` was not logged.
    """

    def __init__(
        self,
        dirpath: str = "checkpoints",
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        top_k: Annotated[int, Ge(-1)] = 1,
        every_n_epochs: NonNegativeInt = 1,
        every_n_steps: NonNegativeInt = 0,
        every_n_minutes: NonNegativeFloat = 0.0,
    ) -> None:
        self.dirpath = Path(dirpath)
        self.monitor = monitor if top_k else None
        self.sign = {"min": 1.0, "max": -1.0}[mode]
        self.top_k = top_k
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self._is_periodic = bool(every_n_epochs or every_n_steps or every_n_minutes)
        self.best_scores: dict[str, float] = {}  # of the best checkpoints, by file name; the best one first
        self._validated = False  # whether there is a validation that is not compared with the best yet
        self._score: float | None = None  # of weights that are among the best and not saved yet
        self._steps = 0  # at the last step boundary

    @property
    def last(self) -> Path:
        """Returns the path of the newest checkpoint."""
        return self.dirpath / "last.ckpt"

    @property
    def best_model_path(self) -> str:
        """Returns the path of the best checkpoint, empty where there is none yet; Lightning's name for it."""
        path = self.dirpath / "best.ckpt"
        return str(path) if path.is_file() else ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            self.dirpath.mkdir(parents=True, exist_ok=True)
            remove_partial_files(self.dirpath)
            probe = self.dirpath / ".probe.part"  # a folder that cannot be written to fails here, before the first step
            probe.touch()
            probe.unlink()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at, self._steps = time.monotonic(), trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated |= ends_validation(trainer)

    def on_step_boundary(self, trainer: pl.Trainer, end_of_epoch: bool, stopping: bool) -> None:
        """Saves a checkpoint if one is due. The loop calls this between two batches and between two epochs."""
        if self._validated and self.monitor is not None:
            self._compare_with_best(trainer, end_of_epoch)
        steps, epochs = trainer.global_step, trainer.current_epoch
        if (
            stopping
            or self._score is not None
            or (end_of_epoch and self.every_n_epochs and epochs % self.every_n_epochs == 0)
            or (self.every_n_steps and steps // self.every_n_steps > self._steps // self.every_n_steps)
            or (self.every_n_minutes and self._is_time(trainer))
            or (end_of_epoch and self._is_periodic and ends_training(trainer))
        ):
            self.save(trainer)
        self._steps = steps  # a batch may take several steps, or none

    def _compare_with_best(self, trainer: pl.Trainer, end_of_epoch: bool) -> None:
        """Sets `_score` if the last validation is among the best `top_k`."""
        logged = trainer.callback_metrics
        assert self.monitor is not None
        if not check_logged("callbacks.checkpoint.monitor", self.monitor, logged, end_of_epoch):
            return
        self._validated = False
        score = trainer.strategy.broadcast(float(logged[self.monitor]))  # every rank must decide the same
        worst = list(self.best_scores.values())[-1] if 0 < self.top_k <= len(self.best_scores) else None
        if math.isfinite(score) and (worst is None or self.sign * score < self.sign * worst):
            self._score = score

    def save(self, trainer: pl.Trainer) -> None:
        """Writes `last.ckpt`, and links it if it is one of the best. All ranks must call it together."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        dropped = self._insert(f"step-{trainer.global_step}.ckpt") if self._score is not None else []
        trainer.save_checkpoint(self.last, weights_only=False)
        if trainer.is_global_zero:
            self._link(self.last, trainer.global_step)
            for name in dropped:
                (self.dirpath / name).unlink(missing_ok=True)
            for logger in trainer.loggers:  # the curves must not lag behind the checkpoint
                logger.save()
        trainer.strategy.barrier("checkpoint")  # every rank sees every link
        self._score = None
        self._saved_at = time.monotonic()

    def _link(self, path: Path, steps: int) -> None:
        """Links the checkpoint at `path`, which was saved after `steps`, if it is one of the best."""
        name = f"step-{steps}.ckpt"
        if name in self.best_scores and self.top_k != 1:
            link_checkpoint(path, self.dirpath / name)
        if name == next(iter(self.best_scores), name):
            link_checkpoint(path, self.dirpath / "best.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best_scores": self.best_scores, "monitor": self.monitor, "sign": self.sign}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["random"] = gather_objects(trainer.fit_loop.random_state(), trainer)  # type: ignore[attr-defined]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            state = checkpoint["callbacks"].get(self.state_key, {})
            if (state.get("monitor"), state.get("sign")) == (self.monitor, self.sign):  # else the scores are of another
                self.best_scores = state["best_scores"]
            if trainer.is_global_zero:  # a kill may have come after the file was written and before it was linked
                self._link(Path(str(trainer.ckpt_path)), checkpoint["global_step"])
            states = checkpoint.get("random", [])
            if len(states) == trainer.world_size:
                trainer.fit_loop.resume_at(states[trainer.global_rank])  # type: ignore[attr-defined]
            elif trainer.is_global_zero:
                log.warning(
                    "saved by %d processes, resumed by %d: not the same run to the bit", len(states), trainer.world_size
                )

    def _insert(self, name: str) -> list[str]:
        """Inserts a checkpoint into the best ones, and returns the names of those that drop out."""
        assert self._score is not None
        scores = self.best_scores | {name: self._score}
        ranked = sorted(scores.items(), key=lambda item: self.sign * item[1])
        self.best_scores = dict(ranked[: self.top_k] if self.top_k > 0 else ranked)
        return [name for name, _ in ranked[len(self.best_scores) :]]

    def _is_time(self, trainer: pl.Trainer) -> bool:
        return trainer.strategy.broadcast(time.monotonic() - self._saved_at >= 60 * self.every_n_minutes)


def ends_validation(trainer: pl.Trainer) -> bool:
    """Returns, at the end of a validation, whether its metrics count: it is part of a fit, and no sanity check."""
    is_trial = trainer.sanity_checking or trainer.fast_dev_run  # type: ignore[attr-defined]
    return trainer.state.fn == "fit" and not is_trial


def ends_training(trainer: pl.Trainer) -> bool:
    """Returns, at the end of an epoch, whether it is the last one."""
    limits = ((trainer.max_epochs, trainer.current_epoch), (trainer.max_steps, trainer.global_step))
    return trainer.should_stop or any(limit is not None and 0 <= limit <= done for limit, done in limits)


def check_logged(key: str, metric: str, logged: Collection[str], end_of_epoch: bool) -> bool:
    """Returns whether `metric` was logged; one of training may come with the end of its epoch.

    Args:
        key: of the config, whose value `metric` is.
        metric: to look for, after a validation.
        logged: the metrics that are there.
        end_of_epoch: whether the epoch is over.

    Raises:
        RunFailed: when it is missing; lists those that are there.
    """
    if metric in logged:
        return True
    if metric.startswith("train") and not end_of_epoch:
        return False
    raise RunFailed(
        f"{key}={metric} was not logged{nearest(metric, logged)}\n"
        f"logged were: {', '.join(sorted(logged)) or 'none'}\n"
        f"set {key} to one of these, or {key.removesuffix('.metric')}=null: then the last checkpoint is the best"
    )


def best_checkpoint(trainer: pl.Trainer) -> str:
    """Returns the path of the best checkpoint, of `Checkpoint` before Lightning's; empty where there is none."""
    callbacks = sorted(trainer.checkpoint_callbacks, key=lambda callback: not isinstance(callback, Checkpoint))
    return next((path for callback in callbacks if (path := getattr(callback, "best_model_path", ""))), "")
