"""What every sweeper does around choosing its jobs: keeps the books, starts what is not finished, names the winner."""

import io
import logging
import os
import platform
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper as Base
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lab.engine.runs.recorder import now
from lab.engine.runs.run import FINISHED
from lab.engine.sweeps import resume
from lab.engine.sweeps.authorize_jobs import authorize_jobs
from lab.engine.sweeps.best import write_best
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.formats import FORMAT
from lab.engine.utils.locks import directory_lock

log = logging.getLogger(__name__)

ATTEMPTS = 2  # times that a job is started whose process was lost


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Args:
        number: names its directory.
        overrides: that make its config.
    """

    number: int
    overrides: list[str]


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        number: of the job.
        status: completed, pruned or failed.
        metrics: its figures; none where it failed.
        cause: why it failed.
    """

    number: int
    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    cause: str | None = None


class Sweeper(Base):
    """The base of sweepers: a subclass says in `run` which jobs there are.

    The directories of the jobs are the truth: a job is finished when its `run.json` says so, and is not started again;
    its figures are those of its `metrics.json`. Whatever a launcher returns, or whether it comes back at all, is of no
    account, so that a sweep can be killed anywhere and go on.
    """

    kind: str
    config: DictConfig
    tries_again = True  # jobs that failed, when the sweep goes on
    told: Sequence[str] = ()  # overrides that each job is given on top
    total: int | None = None  # jobs that there will be, where that is known

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.is_asked = resume.begun_sweep(config) is not None
        self.config, self.overrides = resume.whole_sweep(config)
        self.hydra_context = hydra_context
        self.directory = Sweep(Path(config.hydra.sweep.dir).resolve())
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=self.config
        )
        self.serial = type(self.launcher).__name__ == "BasicLauncher"  # one job after the other, in this process
        self.outcomes: dict[int, Outcome] = {}
        self.gave_up = "its process ended without a word"
        if self.serial:  # a line for each job is written here
            logging.getLogger(type(self.launcher).__module__).setLevel(logging.WARNING)

    @abstractmethod
    def run(self, overrides: list[str]) -> None:
        """Launches every job.

        Args:
            overrides: of the task, swept ones included.
        """

    def sweep(self, arguments: list[str]) -> None:
        resumed = resume.check(self.directory, self.config, self.overrides, self.is_asked)
        self.directory.dir.mkdir(parents=True, exist_ok=True)
        record = self.directory.record
        what = f"is at work, as process {record.get('pid')} on {record.get('hostname')}"
        with directory_lock(self.directory.dir, what):
            self._begin(resumed)
            try:
                self.run(self.overrides)
            except SystemExit:
                self.directory.update(status="preempted", finished=now())
                log.info("go on with: python src/train.py sweep.resume=%s", self.directory.dir)
                raise
            except BaseException as error:
                self.directory.update(status="failed", finished=now(), error=f"{type(error).__name__}: {error}")
                raise
            self._end()

    def launch(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Brings jobs to their end: those that are finished are left alone, the others go on or begin.

        Returns:
            How each of them ended.
        """
        returned: dict[int, str] = {}  # why a job failed, by number
        for _ in range(ATTEMPTS):
            open_jobs = [job for job in jobs if not self._is_finished(job) and job.number not in returned]
            if not open_jobs:
                break
            for batch in [[job] for job in open_jobs] if self.serial else [open_jobs]:
                returned |= self._start(batch)
        outcomes = [self._outcome(job, returned) for job in jobs]
        self.outcomes |= {outcome.number: outcome for outcome in outcomes}
        return outcomes

    def _start(self, batch: Sequence[Job]) -> dict[int, str]:
        """Launches a batch.

        Returns:
            Of the jobs that failed, why; a job whose process was lost is not among them.
        """
        for job in batch:
            of = f" of {self.total}" if self.total else ""
            log.info("job %d%s: %s", job.number, of, " ".join(self._shown(job)))
        # Each is told its directory: launchers count on from the first of a batch, and there may be holes. It goes on
        # with what that holds, in which Hydra is to write nothing over
        authorize_jobs(self.config, [job.overrides for job in batch])
        where = ["resume=auto", "hydra.output_subdir=null"]
        words = [[*job.overrides, *self.told, *where, f"hydra.sweep.subdir={job.number}"] for job in batch]
        try:
            returns: Sequence[JobReturn] = self.launcher.launch(words, initial_job_idx=batch[0].number)
        except Exception as error:  # of joblib, submitit or ray: one process that dies takes all results along
            self.gave_up = f"the launcher gave up: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            log.warning("%s", self.gave_up)
            return {}
        failed = {}
        for job, one in zip(batch, returns, strict=True):
            if one.status == JobStatus.FAILED:
                raised = _error(one)
                failed[job.number] = str(raised).strip() or type(raised).__name__
                log.error("job %d failed: %s", job.number, failed[job.number], exc_info=_trace(raised))
        return failed

    def _outcome(self, job: Job, returned: dict[int, str]) -> Outcome:
        run = self.directory.job(job.number)
        if self._is_finished(job):
            return Outcome(job.number, run.status, run.metrics)
        cause = returned.get(job.number) or run.record.get("error") or self.gave_up
        return Outcome(job.number, "failed", cause=cause)

    def _is_finished(self, job: Job) -> bool:
        return self.directory.job(job.number).status in FINISHED

    def _shown(self, job: Job) -> list[str]:
        """What of a job's overrides the sweep varies."""
        given = set(self.overrides)
        return [word for word in job.overrides if word not in given] or list(job.overrides)

    def _begin(self, resumed: bool) -> None:
        facts: dict[str, Any] = {"status": "running", "pid": os.getpid(), "hostname": platform.node()}
        if resumed:
            record = self.directory.record
            self.directory.update(resumed=[*record.get("resumed", []), now()], finished=None, error=None, **facts)
            return
        objective: Any = OmegaConf.to_container(self.config).get("objective")  # type: ignore[union-attr]
        self.directory.update(
            format=FORMAT,
            started=now(),
            name=self.config.sweep.name,
            sweeper=self.kind,
            objectives=self.objectives() or ([objective] if objective else []),
            **resume.facts(self.config, self.overrides),
            **facts,
        )

    def objectives(self) -> list[dict[str, str]]:
        """The sweep's own objectives, `metric` and `mode` of each; none for that of the model."""
        return []

    def _end(self) -> None:
        """Tells how the jobs ended, and what came of them.

        Raises:
            RunFailed: when one of them failed.
        """
        before = {
            number: Outcome(number, run.status, cause=run.record.get("error"))
            for number, run in self.directory.jobs.items()  # those of a search that has gone on, too
        }
        done = (before | self.outcomes).values()
        counts = {status: sum(one.status == status for one in done) for status in ("completed", "pruned", "failed")}
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        failed = [one for one in done if one.status == "failed"]
        self.directory.update(status="failed" if failed else "completed", finished=now(), counts=counts)
        log.info("sweep: %s", told or "no job")
        write_best(self.directory)
        log.info("compare: python scripts/compare.py %s", self.directory.dir)
        if failed:
            lines = [f"{len(failed)} of {len(done)} jobs failed"]
            lines += [f"  job {one.number}: {(one.cause or '').partition(chr(10))[0]}" for one in failed]
            if self.tries_again:
                lines.append(f"again, where they stopped: python src/train.py sweep.resume={self.directory.dir}")
            raise RunFailed("\n".join(lines))


def _error(job: JobReturn) -> Any:
    """What a job raised, which Hydra raises where it is asked for it, and tells of on the screen."""
    try:
        with redirect_stderr(io.StringIO()):
            return job.return_value
    except Exception as error:
        return error


def _trace(error: Any) -> Any:
    """The traceback of an error that is no user's mistake."""
    return error if isinstance(error, Exception) and not isinstance(error, UserError | RunFailed) else None
