"""Jobs as processes of their own on this machine: the machinery of hydra/launcher=gpu_pool."""

import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from lab.engine.runs.attach import attach_command, prepare
from lab.engine.runs.run import Run
from lab.engine.sweeps.device_slots import Slot
from lab.engine.utils.errors import Preempted, RunFailed
from lab.engine.utils.processes import set_parent_death_signal
from lab.engine.utils.redaction import redact

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Of ranks and jobs that this process may itself be part of; a job of the pool begins its own
NOT_HANDED_ON = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Args:
        number: its name in the sweep, and its directory's.
        overrides: that make its config.
        directory: of its run.
        command: of its process.
        environment: variables that its config sets.
    """

    number: str
    overrides: Sequence[str]
    directory: Path
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: DictConfig, overrides: Sequence[str], index: int) -> "Job":
        """Returns the job that a sweeper asks for, and saves its config where its process finds it.

        Args:
            config: of the job, its `hydra` node included.
            overrides: of the job.
            index: where it stands in the batch.
        """
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(index), index
        directory = Path(config.hydra.sweep.dir).absolute() / str(config.hydra.sweep.subdir)
        if not Run(directory).record:  # else it goes on with what it has
            prepare(directory, config)
        variables = {str(name): str(value) for name, value in config.hydra.job.env_set.items()}
        return cls(directory.name, overrides, directory, attach_command(directory), variables)


@dataclass
class Running:
    """A job at work."""

    job: Job
    slot: Slot
    process: "subprocess.Popen[bytes]"
    began: float
    offset: int  # where its part of output.log begins
    told: int = 0  # signals that it was handed


@dataclass
class Pool:
    """Keeps every slot busy while there are jobs."""

    slots: Sequence[Slot]
    _heard: list[int] = field(default_factory=list, init=False)
    _running: list[Running] = field(default_factory=list, init=False)

    def run(self, jobs: Sequence[Job]) -> list[JobReturn]:
        """Runs all jobs to their ends, whatever becomes of each; what each came to, in their order.

        SIGINT and SIGTERM are handed to those at work, which save and leave; the others are not begun.

        Raises:
            Preempted: when the signal has been obeyed.
        """
        waiting, free, done = deque(jobs), deque(self.slots), dict[str, JobReturn]()
        try:
            with self._listening():
                while (waiting and not self._heard) or self._running:
                    while waiting and free and not self._heard:
                        self._running.append(_begin(waiting.popleft(), free.popleft()))
                    self._hand_on()
                    for each in [each for each in self._running if each.process.poll() is not None]:
                        self._running.remove(each)
                        free.append(each.slot)
                        done[each.job.number] = _end(each)
                    time.sleep(0.05)
        finally:
            for each in self._running:  # an error of this process's own: nothing is left behind
                each.process.terminate()
            for each in self._running:
                each.process.wait()
        if self._heard:
            raise Preempted(self._heard[0])
        return [done[job.number] for job in jobs]

    @contextmanager
    def _listening(self) -> Iterator[None]:
        self._heard.clear()
        if current_thread() is not main_thread():  # others cannot listen
            yield
            return
        before = {signum: signal.signal(signum, self._hear) for signum in SIGNALS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        self._heard.append(signum)

    def _hand_on(self) -> None:
        for each in self._running:
            for signum in self._heard[each.told :]:
                each.process.send_signal(signum)
            each.told = len(self._heard)


def _begin(job: Job, slot: Slot) -> Running:
    job.directory.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in NOT_HANDED_ON}
    with (job.directory / "output.log").open("ab") as output:
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**kept, **job.environment, **slot.environment},
            process_group=0,  # a Ctrl-C is handed on by this process, once
            preexec_fn=_in_child(slot.cores),
        )
        offset = output.tell()
    log.info("job %s begins on %s", job.number, slot.name)
    return Running(job, slot, process, time.monotonic(), offset)


def _in_child(cores: Sequence[int]) -> Callable[[], None]:
    """What a job's process does before it is Python: it ends with its parent, saving, and keeps to its cores."""
    end = set_parent_death_signal(os.getpid())

    def prepare() -> None:
        end()
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)

    return prepare


class PoolReturn(JobReturn):
    """What a process that has ended came to."""

    def end(self, status: JobStatus, value: Any) -> None:
        """Says how it ended: its figure, or the error."""
        self.status, self.return_value = status, value


def _end(each: Running) -> JobReturn:
    """What a process that has ended came to; of one that was killed, the ranks that it had started end, too."""
    job, status = each.job, each.process.returncode
    seconds = time.monotonic() - each.began
    done = PoolReturn(overrides=job.overrides, working_dir=str(job.directory), task_name="train")
    if status:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(each.process.pid, signal.SIGKILL)
        cause = _cause(each)
        log.info("job %s failed after %.0f s: %s; see %s", job.number, seconds, cause, job.directory / "output.log")
        # Of one that was killed it stays unknown: whoever killed it, the job may go on
        done.end(JobStatus.FAILED if status > 0 else JobStatus.UNKNOWN, RunFailed(cause))
        return done
    run = Run(job.directory)
    name = str(OmegaConf.select(run.saved, "objective.metric"))
    score = run.metrics.get(name)
    told = "" if score is None else f": {name} {score:.4f}"
    log.info("job %s %s%s, %.0f s", job.number, run.status, told, seconds)
    done.end(JobStatus.COMPLETED, score)
    return done


def _cause(each: Running) -> str:
    """Why a process failed, in a line: the signal, or the last error that it told of."""
    status = each.process.returncode
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    if status - 128 in SIGNALS:
        return f"stopped by {signal.Signals(status - 128).name}"
    with (each.job.directory / "output.log").open("rb") as file:
        file.seek(each.offset)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return redact([*lines, *errors][-1].strip()) if lines else f"ended with exit status {status}"
