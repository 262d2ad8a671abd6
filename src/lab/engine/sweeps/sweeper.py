"""Serves all sweepers: records the jobs, starts those that are not finished, names the winner."""

import io
import logging
import os
import platform
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from shlex import quote
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper as Base
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lab.engine.runs.recorder import now
from lab.engine.runs.run import FINISHED
from lab.engine.sweeps.best import write_best
from lab.engine.sweeps.device_slots import parallel_jobs
from lab.engine.sweeps.jobs import authorize_jobs
from lab.engine.sweeps.resume import begun_sweep, check_same, sweep_config, sweep_metadata
from lab.engine.sweeps.sweep import Sweep
from lab.engine.sweeps.workers import preempted_together
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.formats import FORMAT
from lab.engine.utils.locks import directory_lock

log = logging.getLogger(__name__)

ATTEMPTS = 2  # times that a job is started whose process was lost


class Sweeper(Base):
    """Is the base of sweepers: a subclass chooses the jobs in `run`.

    The state of a job is in its directory: it is finished when its `run.json` says so, and is not started again; its
    metrics are those of its `metrics.json`. What a launcher returns does not count, nor whether it returns at all, so
    that a sweep can be killed at any time and resumed.
    """

    kind: str
    config: DictConfig
    retries_failed = True  # when the sweep is resumed
    extra_overrides: Sequence[str] = ()  # of each job, and without effect on its result
    total: int | None = None  # jobs that there will be, where that is known

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.asked_to_resume = begun_sweep(config) is not None
        self.config, self.overrides = sweep_config(config)
        self.sweeper_config: Any = OmegaConf.to_container(self.config.hydra.sweeper, resolve=True)
        self.hydra_context = hydra_context
        self.directory = Sweep(Path(config.hydra.sweep.dir).resolve())
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=self.config
        )
        self.serial = type(self.launcher).__name__ == "BasicLauncher"  # one job after the other, in this process
        self.failures: dict[int, str] = {}  # why a job failed, by number
        self.lost = "its process ended without a word"  # the cause of a job that reported none
        if self.serial:  # a line for each job is written here
            logging.getLogger(type(self.launcher).__module__).setLevel(logging.WARNING)

    @abstractmethod
    def run(self, overrides: list[str]) -> None:
        """Launches every job.

        Args:
            overrides: of the task, swept ones included.
        """

    def sweep(self, arguments: list[str]) -> None:
        self.directory.dir.mkdir(parents=True, exist_ok=True)
        record = self.directory.metadata
        what = f"is at work, as process {record.get('pid')} on {record.get('hostname')}"
        with directory_lock(self.directory.dir, what):
            resumed = check_same(self.directory, self.config, self.overrides, self.asked_to_resume)
            self._begin(resumed)
            try:
                self.run(self.overrides)
            except (SystemExit, KeyboardInterrupt):
                self.directory.update(status="preempted", finished=now())
                log.info("go on with: python src/train.py sweep.resume=%s", quote(str(self.directory.dir)))
                raise
            except BaseException as error:
                self.directory.update(status="failed", finished=now(), error=f"{type(error).__name__}: {error}")
                raise
            self._end()

    def launch(self, jobs: Mapping[int, list[str]]) -> None:
        """Runs jobs until they are finished: skips those that are, resumes or begins the others.

        `failures` then holds why jobs failed.

        Args:
            jobs: the overrides of each, by number.
        """
        for _ in range(ATTEMPTS):
            left = [number for number in jobs if not self._is_finished(number) and number not in self.failures]
            for batch in [[number] for number in left] if self.serial else [left]:
                if batch:
                    self._start({number: jobs[number] for number in batch})
        for number in jobs:
            if self._is_finished(number):
                self.failures.pop(number, None)
            else:
                self.failures.setdefault(number, self.directory.job(number).metadata.get("error") or self.lost)

    def _start(self, batch: Mapping[int, list[str]]) -> None:
        """Launches a batch of jobs, and records why jobs failed, except those whose processes were lost."""
        given = set(self.overrides)
        for number, overrides in batch.items():
            of = f" of {self.total}" if self.total else ""
            varied = [override for override in overrides if override not in given]
            log.info("job %d%s: %s", number, of, " ".join(varied or overrides))
        authorize_jobs(self.config, batch.values())
        # Each job gets its directory, since launchers number a batch without gaps. It resumes what the directory holds,
        # where Hydra must not overwrite the config
        more = [*self.extra_overrides, "resume=auto", "hydra.output_subdir=null"]
        arguments = [[*overrides, *more, f"hydra.sweep.subdir={number}"] for number, overrides in batch.items()]
        workers: Any = getattr(self.launcher, "joblib", None)
        if workers:  # one without a job would outlive a sweep that is killed
            at_a_time = parallel_jobs(self.launcher, self.config.hydra.launcher)
            workers["n_jobs"] = min(at_a_time, max(2, len(batch)))
        try:
            with preempted_together(self.directory) if workers else nullcontext():
                returns: Sequence[JobReturn] = self.launcher.launch(arguments, initial_job_idx=min(batch))
        except Exception as error:  # of joblib, submitit or ray: one process that dies takes all results along
            self.lost = f"the launcher gave up: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            log.warning("%s", self.lost)
            return
        for number, job in zip(batch, returns, strict=True):
            if job.status == JobStatus.FAILED:
                raised = _error_of(job)
                self.failures[number] = str(raised).strip() or type(raised).__name__
                trace = None if isinstance(raised, UserError | RunFailed) else raised
                log.error("job %d failed: %s", number, self.failures[number], exc_info=trace)

    def _is_finished(self, number: int) -> bool:
        return self.directory.job(number).status in FINISHED

    def _begin(self, resumed: bool) -> None:
        metadata: dict[str, Any] = {"status": "running", "pid": os.getpid(), "hostname": platform.node()}
        if resumed:
            times = [*self.directory.metadata.get("resumed", []), now()]
            self.directory.update(resumed=times, finished=None, error=None, **metadata)
            return
        self.directory.update(
            format=FORMAT,
            started=now(),
            name=self.config.sweep.name,
            sweeper=self.kind,
            objectives=self._objectives(),
            **sweep_metadata(self.config, self.overrides),
            **metadata,
        )

    def _objectives(self) -> list[dict[str, Any]]:
        """Returns `metric` and `mode` of each of the sweep's objectives, or else of the model's."""
        given = self.sweeper_config.get("objectives") or {}
        own = OmegaConf.to_container(self.config).get("objective")  # type: ignore[union-attr]
        return [{"metric": metric, "mode": mode} for metric, mode in given.items()] or ([own] if own else [])

    def _end(self) -> None:
        """Records and logs how the jobs ended, and the winner.

        Raises:
            RunFailed: when one of them failed.
        """
        runs = self.directory.jobs.items()  # those of a search that has gone on, too
        statuses = {number: run.status for number, run in runs} | dict.fromkeys(self.failures, "failed")
        counts = {status: [*statuses.values()].count(status) for status in ("completed", "pruned", "failed")}
        failed = [number for number, status in statuses.items() if status == "failed"]
        self.directory.update(status="failed" if failed else "completed", finished=now(), counts=counts)
        shown = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        log.info("sweep: %s", shown or "no job")
        write_best(self.directory)
        log.info("compare: python scripts/compare.py %s", quote(str(self.directory.dir)))
        if failed:
            lines = [f"{len(failed)} of {len(statuses)} jobs failed"]
            for number in failed:
                cause = self.failures.get(number) or self.directory.job(number).metadata.get("error") or ""
                lines.append(f"  job {number}: {cause.partition(chr(10))[0]}")
            if self.retries_failed:
                directory = quote(str(self.directory.dir))
                lines.append(f"again, where they stopped: python src/train.py sweep.resume={directory}")
            raise RunFailed("\n".join(lines))


def _error_of(job: JobReturn) -> Any:
    """Returns the error that a job raised, without Hydra's message on stderr."""
    try:
        with redirect_stderr(io.StringIO()):
            return job.return_value
    except Exception as error:
        return error
