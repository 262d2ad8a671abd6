"""How many trials are trained at a time, where nobody says so."""

import os
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from lab.engine.sweeps.device_slots import cores, parallel_jobs

ALL = len(os.sched_getaffinity(0))


def launcher(path: str) -> Any:
    """A launcher as it is before it was set up; skipped where it is not installed."""
    module, _, name = path.rpartition(".")
    found = getattr(pytest.importorskip(f"hydra_plugins.{module}"), name)
    return found.__new__(found)


def test_the_basic_launcher_takes_one() -> None:
    [basic] = [found for found in Plugins.instance().discover(Launcher) if found.__name__ == "BasicLauncher"]
    assert parallel_jobs(basic(), OmegaConf.create({})) == 1


@pytest.mark.parametrize(("n_jobs", "expected"), [(3, 3), (-1, ALL), (-2, max(1, ALL - 1)), (-99, 1), (None, 1)])
def test_joblib_takes_what_it_is_told(n_jobs: int | None, expected: int) -> None:
    joblib = launcher("hydra_joblib_launcher.joblib_launcher.JoblibLauncher")
    assert parallel_jobs(joblib, OmegaConf.create({"n_jobs": n_jobs})) == expected


def test_slurm_takes_an_array_and_this_machine_its_cores() -> None:
    name = "hydra_submitit_launcher.submitit_launcher"
    assert parallel_jobs(launcher(f"{name}.SlurmLauncher"), OmegaConf.create({"array_parallelism": 7})) == 7
    assert parallel_jobs(launcher(f"{name}.LocalLauncher"), OmegaConf.create({"timeout_min": 7})) == len(cores()) == ALL
