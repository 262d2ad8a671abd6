"""What holds in the processes that joblib, submitit and Ray start for the jobs of a sweep."""

import logging
import os
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lab.engine.config.security import EXTRAS
from lab.engine.utils.console import ignore_known_warnings, log_warnings
from lab.engine.utils.paths import ROOT
from lab.engine.utils.processes import set_parent_death_signal

_in_worker = False
ignore_known_warnings()  # a worker composes its job's config after it has loaded this


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
            log_warnings()


def in_worker() -> bool:
    """Whether this process was started by a launcher, for one job or for some of a sweep."""
    return _in_worker
