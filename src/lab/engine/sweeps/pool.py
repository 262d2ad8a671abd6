"""Runs jobs as processes of their own on this machine, for hydra/launcher=gpu_pool."""

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
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from lab.engine.runs.attach import attach_command, prepare
from lab.engine.runs.run import Run
from lab.engine.sweeps.device_slots import Slot
from lab.engine.utils.errors import STOP_SIGNALS, Preempted, RunFailed
from lab.engine.utils.processes import set_parent_death_signal
from lab.engine.utils.redaction import redact

log = logging.getLogger(__name__)

# Variables of ranks that this process may be one of; a job of the pool is none of them
NOT_HANDED_ON = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class PoolReturn(JobReturn):
    """Holds the result of a job's process."""

    def end(self, status: JobStatus, value: Any) -> "PoolReturn":
        """Sets the status and the objective or error of the job."""
        self.status, self.return_value = status, value
        return self


@dataclass
class PoolJob:
    """Runs one job in a process of its own.

    Args:
        overrides: that make its config.
        directory: of its run, named by its number.
        command: of its process.
        environment: variables that its config sets.
    """

    overrides: Sequence[str]
    directory: Path
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    slot: Slot = field(init=False)
    process: "subprocess.Popen[bytes]" = field(init=False)
    began: float = field(init=False)
    offset: int = field(init=False)  # where its part of output.log begins
    signals: int = field(default=0, init=False)  # that it was handed

    @classmethod
    def prepare(cls, config: DictConfig, overrides: Sequence[str], index: int) -> "PoolJob":
        """Makes a job, and saves its config in its directory for its process to read.

        Args:
            config: of the job, its `hydra` node included.
            overrides: of the job.
            index: where it stands in the batch.
        """
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(index), index
        directory = Path(config.hydra.sweep.dir).absolute() / str(config.hydra.sweep.subdir)
        if not Run(directory).metadata:  # else it resumes with the config that it has
            prepare(directory, config)
        variables = {str(name): str(value) for name, value in config.hydra.job.env_set.items()}
        return cls(overrides, directory, attach_command(directory), variables)

    def begin(self, slot: Slot) -> None:
        """Starts the job's process in `slot`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name not in NOT_HANDED_ON}
        with (self.directory / "output.log").open("ab") as output:
            self.slot, self.began, self.offset = slot, time.monotonic(), output.tell()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**kept, **self.environment, **slot.environment},
                process_group=0,  # a Ctrl-C is handed on by this process, once
                preexec_fn=_in_child(slot.cores),
            )
        log.info("job %s begins on %s", self.directory.name, slot.name)

    def end(self) -> JobReturn:
        """Returns the result of the job's process; kills the ranks that a failed one leaves behind."""
        name, status, seconds = self.directory.name, self.process.returncode, time.monotonic() - self.began
        result = PoolReturn(overrides=self.overrides, working_dir=str(self.directory), task_name="train")
        if status:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            cause = self._cause()
            log.info("job %s failed after %.0f s: %s; see %s", name, seconds, cause, self.directory / "output.log")
            # UNKNOWN for a killed job, which may be started again
            return result.end(JobStatus.FAILED if status > 0 else JobStatus.UNKNOWN, RunFailed(cause))
        run = Run(self.directory)
        metric = str(OmegaConf.select(run.saved, "objective.metric"))
        score = run.metrics.get(metric)
        shown = "" if score is None else f": {metric} {score:.4f}"
        log.info("job %s %s%s, %.0f s", name, run.status, shown, seconds)
        return result.end(JobStatus.COMPLETED, score)

    def _cause(self) -> str:
        """Returns in one line why the job's process failed: the signal, or the last error in its output."""
        status = self.process.returncode
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        if status - 128 in STOP_SIGNALS:
            return f"stopped by {signal.Signals(status - 128).name}"
        with (self.directory / "output.log").open("rb") as file:
            file.seek(self.offset)
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return redact([*lines, *errors][-1].strip()) if lines else f"ended with exit status {status}"


@dataclass
class Pool:
    """Runs jobs in processes, one at a time in each slot."""

    slots: Sequence[Slot]
    _heard: list[int] = field(default_factory=list, init=False)

    def run(self, jobs: Sequence[PoolJob]) -> list[JobReturn]:
        """Runs all jobs, whether or not some of them fail.

        Signals that ask it to stop are passed to the running jobs, which save and stop; the others are not begun.

        Returns:
            The result of each, in their order.

        Raises:
            Preempted: after a signal, when the jobs have stopped.
        """
        waiting, free, running = deque(jobs), deque(self.slots), list[PoolJob]()
        done: dict[Path, JobReturn] = {}
        try:
            with self._listening():
                while (waiting and not self._heard) or running:
                    while waiting and free and not self._heard:
                        job = waiting.popleft()
                        job.begin(free.popleft())
                        running.append(job)
                    for job in list(running):
                        for signum in self._heard[job.signals :]:
                            job.process.send_signal(signum)
                            job.signals += 1
                        if job.process.poll() is not None:
                            running.remove(job)
                            free.append(job.slot)
                            done[job.directory] = job.end()
                    time.sleep(0.05)
        finally:
            for job in running:  # an error of this process's own: nothing is left behind
                job.process.terminate()
            for job in running:
                job.process.wait()
        if self._heard:
            raise Preempted(self._heard[0])
        return [done[job.directory] for job in jobs]

    @contextmanager
    def _listening(self) -> Iterator[None]:
        self._heard.clear()
        if current_thread() is not main_thread():  # others cannot listen
            yield
            return
        handled = [signum for signum in STOP_SIGNALS if signal.getsignal(signum) != signal.SIG_IGN]
        before = {signum: signal.signal(signum, lambda heard, _: self._heard.append(heard)) for signum in handled}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _in_child(cores: Sequence[int]) -> Callable[[], None]:
    """Returns the `preexec_fn` of a job's process: it ends with its parent, saving first, and uses `cores` alone."""
    end_with_parent = set_parent_death_signal(os.getpid())

    def in_child() -> None:
        end_with_parent()
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)

    return in_child
