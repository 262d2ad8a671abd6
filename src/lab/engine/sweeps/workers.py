"""What holds in the processes that joblib, submitit and Ray start for the jobs of a sweep."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lab.engine.cli.errors import show_warning
from lab.engine.config.security import EXTRAS
from lab.engine.distributed.slurm import starts_again
from lab.engine.utils.errors import Preempted, RunFailed
from lab.engine.utils.paths import ROOT
from lab.engine.utils.processes import set_parent_death_signal

_in_worker = False


class Workers(Callback):
    """Makes `lab` importable in workers, and keeps secrets out of their warnings as elsewhere.

    A launcher hands this very object to its workers, which so know that they are none of the sweep's own process.
    """

    def __init__(self) -> None:
        self.home = os.getpid()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A checkout need not be installed: `src/train.py` knows where `lab` is, and a worker's script does not."""
        places = [str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(place for place in places if place))
        for package in EXTRAS:  # the sweeper tells of the jobs
            logging.getLogger(package).setLevel(logging.WARNING)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _in_worker
        if os.getpid() != self.home:
            _in_worker = True
            if os.getppid() == self.home:  # joblib's wait for their parent for ever
                set_parent_death_signal(self.home)()
            warnings.showwarning = show_warning


@contextmanager
def outlive_job() -> Iterator[None]:
    """Lets a worker go on with the next job when a signal has ended one for good, and tells the sweep.

    Raises:
        RunFailed: in a worker of a launcher, in place of Preempted.
    """
    try:
        yield
    except Preempted as stopped:
        if _in_worker and not starts_again(stopped.signal):
            raise RunFailed(f"stopped by {stopped.signal.name}") from None
        raise
