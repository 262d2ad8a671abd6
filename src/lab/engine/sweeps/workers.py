"""Prepares the processes that joblib, submitit and Ray start for the jobs of a sweep."""

import logging
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from lab.engine.config.security import EXTRAS
from lab.engine.distributed.slurm import is_requeued
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.console import ignore_known_warnings, log_warnings
from lab.engine.utils.environment import set_variables
from lab.engine.utils.errors import STOP_SIGNALS, Preempted, RunFailed
from lab.engine.utils.paths import ROOT
from lab.engine.utils.processes import is_alive, set_parent_death_signal

ignore_known_warnings()  # a worker composes its job's config after it has loaded this


class Workers(Callback):
    """Makes `lab` importable in workers, and logs their warnings with secrets masked.

    A launcher passes this object to its workers, which so know that they are not the sweep's own process.
    """

    def __init__(self) -> None:
        self.home = os.getpid()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Adds the folder of `lab` to the workers' PYTHONPATH, which their script, unlike `src/train.py`, lacks."""
        folders = [str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        set_variables(PYTHONPATH=os.pathsep.join(dict.fromkeys(filter(None, folders))))
        for package in EXTRAS:  # the sweeper tells of the jobs
            logging.getLogger(package).setLevel(logging.WARNING)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if os.getpid() != self.home:
            self._end_with_sweep(config)
            log_warnings()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if os.getpid() != self.home:
            self._end_with_sweep(config)

    def _end_with_sweep(self, config: DictConfig) -> None:
        """Ends a worker of joblib with the sweep's process, for whose next job it would wait."""
        if "joblib" in config.hydra.launcher._target_:
            set_parent_death_signal(self.home)()  # ends it at once if that process is gone
            if Sweep(Path(config.hydra.sweep.dir)).status == "preempted":
                os._exit(1)


@contextmanager
def preempted_together(sweep: Sweep) -> Iterator[None]:
    """Passes a signal on to the jobs in joblib's workers, and waits until they are saved: joblib would kill them.

    No other job begins. A second signal ends this process at once, and the jobs with it.

    Raises:
        Preempted: with the signal.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        for handled in before:
            signal.signal(handled, signal.SIG_DFL)
        sweep.update(status="preempted")  # workers read it before they begin a job
        for pid in _running(sweep):
            os.kill(pid, signum)
        while _running(sweep):
            time.sleep(0.1)
        raise Preempted(signum)

    before = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS if signal.getsignal(signum) != signal.SIG_IGN}
    for signum in before:
        signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _running(sweep: Sweep) -> list[int]:
    """Returns the processes of this machine that train jobs of a sweep, but this one."""
    running = [run.metadata.get("pid") for run in sweep.jobs.values() if run.status == "running"]
    return [pid for pid in running if pid not in (None, os.getpid()) and is_alive(pid)]


@contextmanager
def outlive_job() -> Iterator[None]:
    """Raises RunFailed in place of Preempted in a worker, so that the worker lives on and the sweep learns of it.

    A job that its queue will start again stays preempted.

    Raises:
        RunFailed: with the signal.
    """
    try:
        yield
    except Preempted as stopped:
        if is_worker() and not is_requeued(stopped.signal):
            raise RunFailed(f"stopped by {stopped.signal.name}") from None
        raise


def is_worker() -> bool:
    """Tells whether this process is a launcher's worker, in which Hydra runs jobs of a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return False
    record = Sweep(Path(HydraConfig.get().sweep.dir)).metadata
    return (record.get("pid"), record.get("hostname")) != (os.getpid(), platform.node())
