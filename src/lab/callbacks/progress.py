"""Shows the progress of a run."""

import inspect
import logging
import math
import os
import pdb
import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from lab.engine.utils.ranges import PositiveFloat

log = logging.getLogger(__name__)


class Progress(ProgressBar):
    """Logs a line for each epoch, and shows a bar within the epoch on a terminal.

    Lightning's bars read every metric at every step, which takes longer than the training of a small model.

    Args:
        interval: seconds between two updates of the bar.
    """

    def __init__(self, interval: PositiveFloat = 0.2) -> None:
        super().__init__()
        self.interval = interval
        self._enabled = True
        self._bar: RichProgress | None = None

    def disable(self) -> None:  # on every rank but 0
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._enabled and sys.stdout.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[loss]}"),
                refresh_per_second=1 / self.interval,
                transient=True,
            )
            self._bar.start()
            sys.breakpointhook = self._break
        self.on_train_epoch_start(trainer, pl_module)  # not called by Lightning where a run resumes within an epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = self._next = time.monotonic()
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            total = self.total_train_batches
            self._task = self._bar.add_task(_epoch(trainer), total=total if math.isfinite(total) else None, loss="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None and time.monotonic() >= self._next:
            loss = trainer.callback_metrics.get("train/loss")
            text = "" if loss is None else f"train/loss {loss:.4f}"
            self._bar.update(self._task, completed=batch_idx + 1, loss=text)
            self._next = time.monotonic() + self.interval

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._enabled:
            metrics = {name: value for name, value in trainer.callback_metrics.items() if not name.startswith("lr")}
            columns = "  ".join(f"{name} {float(value):.4g}" for name, value in sorted(metrics.items()))
            log.info("%s  %s  %.1f s", _epoch(trainer), columns, time.monotonic() - self._start)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            sys.breakpointhook = sys.__breakpointhook__

    def _break(self, *args: Any, **kwargs: Any) -> Any:
        """Hides the bar for the rest of the fit, and starts the debugger at `breakpoint()`."""
        self._stop()
        if os.environ.get("PYTHONBREAKPOINT"):  # another debugger, or none
            return sys.breakpointhook(*args, **kwargs)
        frame = inspect.currentframe()
        return pdb.Pdb().set_trace(frame and frame.f_back)


def _epoch(trainer: pl.Trainer) -> str:
    last = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
    return f"epoch {trainer.current_epoch + 1}{last}"
