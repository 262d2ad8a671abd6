"""Lightning's loggers, in runs that go on after a kill and in processes that train several jobs.

Two optional methods, which training calls of any logger that has them: `resume_at(step)` before the fit, and
`log_final_metrics(metrics)` at the end of the run.
"""

from pathlib import Path
from typing import Any, Literal

import pytorch_lightning.loggers as base
from pytorch_lightning.utilities import rank_zero_only


class TensorBoardLogger(base.TensorBoardLogger):
    """Lightning's own; hides what a killed run had drawn beyond its checkpoint, and fills the HPARAMS page at the end.

    Args:
        save_dir: folder of the run.
        name: of a folder in it; none.
        version: of the folder in that, which holds the files.
        default_hp_metric: draw a metric of -1 where there are none.
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
        self.options: dict[str, Any] = {
            "save_dir": save_dir,
            "name": name,
            "version": version,
            "default_hp_metric": default_hp_metric,
            **options,
        }
        super().__init__(save_dir, name, version, default_hp_metric=default_hp_metric, **options)

    def resume_at(self, step: int) -> None:
        """Has TensorBoard forget what earlier event files hold from `step` on."""
        if any(Path(self.log_dir).glob("events.*")):
            super().__init__(**self.options, purge_step=step)

    @rank_zero_only
    def log_final_metrics(self, metrics: dict[str, float]) -> None:
        """Shows the hyperparameters beside the final figures."""
        self.log_hyperparams(dict(self.hparams), {f"final/{name}": value for name, value in metrics.items()})  # type: ignore[arg-type]


class CSVLogger(base.CSVLogger):
    """Lightning's own; a run that goes on writes a folder `csv-STEPS` beside the first, which Lightning would remove.

    Args:
        save_dir: folder of the run.
        name: of a folder in it; none.
        version: of the folder in that, which holds the files.
        **options: of `pytorch_lightning.loggers.CSVLogger`.
    """

    def __init__(self, save_dir: str = "logs", name: str | None = "", version: str = "csv", **options: Any) -> None:
        self.options: dict[str, Any] = {"save_dir": save_dir, "name": name, **options}
        super().__init__(save_dir, name, version, **options)

    def resume_at(self, step: int) -> None:
        """Writes to another folder, where there is one already."""
        if Path(self.log_dir).exists():
            super().__init__(version=f"{self.version}-{step}", **self.options)


class WandbLogger(base.WandbLogger):
    """Lightning's own; ends its W&B run with the run, so that the next job of this process has one of its own.

    Args:
        save_dir: folder of the run.
        project: of W&B.
        offline: write files alone, for `wandb sync`.
        id: of the W&B run; None for a new one.
        resume: whether a W&B run of this `id` goes on; see `wandb.init`.
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
        """Puts the final figures into the summary."""
        self.experiment.summary.update(metrics)
        self.experiment.finish()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        if status != "success":  # after a fit that succeeded the test is logged
            self.experiment.finish(exit_code=1)
