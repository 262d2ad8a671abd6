"""Extends Lightning's loggers for runs that are resumed, and for processes that train several jobs.

Training calls two optional methods of any logger that has them: `resume_at(step)` before the fit, and
`log_final_metrics(metrics)` at the end of the run.
"""

from pathlib import Path
from typing import Any, Literal

import pytorch_lightning.loggers as base
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog


class TensorBoardLogger(base.TensorBoardLogger):
    """Hides what a killed run logged beyond its checkpoint, and fills the HPARAMS page at the end of the run.

    Args:
        save_dir: folder of the run.
        name: of a folder within `save_dir`; empty for none.
        version: of the folder within that, which holds the files.
        default_hp_metric: whether to log a metric of -1 where there are none.
        **options: of `pytorch_lightning.loggers.TensorBoardLogger`.
    """

    def __init__(
        self,
        save_dir: str = "logs",
        name: str | None = "",
        version: str | int | None = "tensorboard",
        default_hp_metric: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(save_dir, name, version, default_hp_metric=default_hp_metric, **options)

    @rank_zero_only
    def resume_at(self, step: int) -> None:
        """Makes TensorBoard ignore what earlier event files hold from `step` on, as `purge_step` of a writer does."""
        if any(Path(self.log_dir).glob("events.*")):
            start = SessionLog(status=SessionLog.START)  # type: ignore[attr-defined]
            self.experiment.file_writer.add_event(Event(step=step, session_log=start))  # type: ignore[union-attr]

    @rank_zero_only
    def log_final_metrics(self, metrics: dict[str, float]) -> None:
        """Shows the hyperparameters beside the final metrics."""
        self.log_hyperparams(dict(self.hparams), {f"final/{name}": value for name, value in metrics.items()})  # type: ignore[arg-type]


class CSVLogger(base.CSVLogger):
    """Keeps the CSV file of a resumed run, which Lightning would remove: it continues in a folder `csv-STEPS` beside.

    Args:
        save_dir: folder of the run.
        name: of a folder within `save_dir`; empty for none.
        version: of the folder within that, which holds the files.
        **options: of `pytorch_lightning.loggers.CSVLogger`.
    """

    def __init__(self, save_dir: str = "logs", name: str | None = "", version: str = "csv", **options: Any) -> None:
        super().__init__(save_dir, name, version, **options)
        self.suffix = ""

    @property
    def log_dir(self) -> str:
        return super().log_dir + self.suffix

    def resume_at(self, step: int) -> None:
        """Continues in another folder where there is one already."""
        if Path(self.log_dir).exists():
            self.suffix = f"-{step}"


class WandbLogger(base.WandbLogger):
    """Ends its W&B run together with the run, so that the next job of this process begins a W&B run of its own.

    Args:
        save_dir: folder of the run.
        project: of W&B.
        offline: whether to write files only, for `wandb sync`.
        id: of the W&B run; None for a new one.
        resume: whether the W&B run of this `id` is continued; see `wandb.init`.
        **options: of `pytorch_lightning.loggers.WandbLogger`.
    """

    def __init__(
        self,
        save_dir: str = "logs",
        project: str | None = "lab",
        offline: bool = False,
        id: str | None = None,  # noqa: A002 (W&B's name)
        resume: Literal["allow", "must", "never", "auto"] | bool | None = "allow",
        **options: Any,
    ) -> None:
        super().__init__(save_dir=save_dir, project=project, offline=offline, id=id, resume=resume, **options)

    @rank_zero_only
    def log_final_metrics(self, metrics: dict[str, float]) -> None:
        """Writes the final metrics into the W&B summary, and ends the W&B run."""
        self.experiment.summary.update(metrics)
        self.experiment.finish()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        if status != "success":  # after a successful fit the test is still logged
            self.experiment.finish(exit_code=1)
