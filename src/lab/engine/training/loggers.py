"""Extends Lightning's loggers for runs that are resumed, and for processes that train several jobs.

Training calls three optional methods of any logger that has them: `resume_at(step)` before the fit,
`log_final_metrics(metrics)` after the test, and `end_run(status)` when the run has ended in any way.
"""

import csv
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning.loggers as base
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from lab.engine.compat.lightning import logged_steps
from lab.engine.utils.errors import Preempted

log = logging.getLogger(__name__)

MLFLOW_STATUS = {"completed": "FINISHED", "preempted": "KILLED", "failed": "FAILED"}


def start_loggers(loggers: Sequence[base.Logger], hparams: dict[str, Any], checkpoint: dict[str, Any] | None) -> None:
    """Logs the hyperparameters, and makes loggers continue after the steps of `checkpoint` if the run resumes."""
    for logger in loggers:
        if hasattr(logger, "resume_at"):
            logger.resume_at(0 if checkpoint is None else logged_steps(checkpoint))
        logger.log_hyperparams(hparams)


@contextmanager
def ended_with_run(loggers: Sequence[base.Logger]) -> Iterator[None]:
    """Ends the loggers with the run, and any run that other code began in W&B or MLflow: the next job begins its own.

    Runs of W&B and MLflow that were open before, such as a notebook's, stay open.

    Args:
        loggers: whose `end_run(status)` is called with completed, preempted or failed, or else `finalize`: the test and
            the final metrics may have opened again what the end of the fit closed, such as TensorBoard's thread.
    """
    before = _open_runs()
    try:
        yield
    except BaseException as error:
        _end(loggers, before, "preempted" if isinstance(error, Preempted) else "failed")
        raise
    _end(loggers, before, "completed")


def _end(loggers: Sequence[base.Logger], before: Sequence[Any], status: str) -> None:
    """Ends each of them, with a warning for one that fails: what the run itself ended with is what counts."""
    wandb_run, mlflow_run = (run if run not in before else None for run in _open_runs())
    lightnings = "success" if status == "completed" else "failed"
    ends = [
        partial(logger.end_run, status) if hasattr(logger, "end_run") else partial(logger.finalize, lightnings)
        for logger in loggers
    ]
    if wandb_run is not None:
        ends += [wandb_run.mark_preempting] * (status == "preempted")
        ends.append(partial(wandb_run.finish, exit_code=int(status != "completed")))
    if mlflow_run is not None:
        ends.append(partial(sys.modules["mlflow"].end_run, MLFLOW_STATUS[status]))
    for end in ends:
        try:
            end()
        except Exception as error:
            log.warning("a logger could not be ended: %s: %s", type(error).__name__, error)


def _open_runs() -> tuple[Any, Any]:
    """Returns the runs of W&B and MLflow that are open in this process; None where there is none."""
    wandb, mlflow = (sys.modules.get(name) for name in ("wandb", "mlflow"))
    return wandb and wandb.run, mlflow and mlflow.active_run()


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
    """Continues the CSV file of a resumed run, which Lightning would remove.

    Args:
        save_dir: folder of the run.
        name: of a folder within `save_dir`; empty for none.
        version: of the folder within that, which holds the files.
        **options: of `pytorch_lightning.loggers.CSVLogger`.
    """

    def __init__(self, save_dir: str = "logs", name: str | None = "", version: str = "csv", **options: Any) -> None:
        super().__init__(save_dir, name, version, **options)

    @rank_zero_only
    def resume_at(self, step: int) -> None:
        """Keeps the lines from before `step`, in `metrics.part` until they are rewritten: a kill loses none."""
        path = Path(self.log_dir) / "metrics.csv"
        before = path.with_suffix(".part")
        if path.exists() and not before.exists():
            path.rename(before)
        if not before.exists():
            return
        whole = (line for line in before.read_text().splitlines(keepends=True) if line.endswith("\n"))
        rows = [row for row in csv.DictReader(whole) if float(row["step"]) < step]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that files in this folder will be deleted
            self.experiment.metrics.extend(rows)  # type: ignore[arg-type]
        self.save()
        before.unlink()


class WandbLogger(base.WandbLogger):
    """Writes the final metrics into the W&B summary; a resumed run continues the W&B run of its `id`.

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
        """Writes the final metrics into the W&B summary."""
        self.experiment.summary.update(metrics)


class MLFlowLogger(base.MLFlowLogger):
    """Continues the MLflow run of a resumed run, and gives it the run's status.

    MLflow draws the ids of its runs itself; a tag holds the `id` by which a resumed run finds its MLflow run.

    Args:
        experiment_name: of MLflow.
        tracking_uri: of a server or a database.
        id: drawn once per run; None for a new MLflow run each time.
        tags: more of them.
        **options: of `pytorch_lightning.loggers.MLFlowLogger`.
    """

    def __init__(
        self,
        experiment_name: str = "lab",
        tracking_uri: str = "sqlite:///mlflow.db",
        id: str | None = None,  # noqa: A002 (as W&B's)
        tags: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        from mlflow import MlflowClient

        tags, run_id = dict(tags or {}), None
        if id is not None:
            tags["lab_run"], client = id, MlflowClient(tracking_uri)
            experiment = client.get_experiment_by_name(experiment_name)
            found = client.search_runs([experiment.experiment_id], f"tags.lab_run = '{id}'") if experiment else []
            run_id = found[0].info.run_id if found else None
        super().__init__(experiment_name, tracking_uri=tracking_uri, tags=tags, run_id=run_id, **options)
        self.resumed = run_id is not None

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Logs the hyperparameters of a new run: MLflow refuses to change them."""
        if self.resumed:
            self.experiment.update_run(self.run_id, status="RUNNING")
        else:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_final_metrics(self, metrics: dict[str, float]) -> None:
        """Logs the final metrics beside the curves, as `final/…`."""
        self.log_metrics({f"final/{name}": value for name, value in metrics.items()})

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Leaves the MLflow run open after the fit, for the test."""
        super().finalize(status)
        if status == "success":
            self.experiment.update_run(self.run_id, status="RUNNING")

    @rank_zero_only
    def end_run(self, status: str) -> None:
        """Ends the MLflow run."""
        self.experiment.set_terminated(self.run_id, MLFLOW_STATUS[status])
