"""How many jobs a launcher takes at a time."""

from typing import Any

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from lab.engine.config.compose import get
from lab.engine.sweeps.device_slots import cores


def parallel_jobs(launcher: Launcher, config: DictConfig) -> int:
    """What one launch can hold without a job that waits.

    Args:
        launcher: as it was set up.
        config: its node of the config.
    """
    name = type(launcher).__name__
    if name == "BasicLauncher":
        return 1
    if name == "GpuPoolLauncher":
        pool: Any = launcher.pool  # type: ignore[attr-defined]
        return len(pool.slots)
    if name == "JoblibLauncher":
        wanted = int(get(config, "n_jobs") or 1)
        return wanted if wanted > 0 else max(1, len(cores()) + 1 + wanted)  # joblib's -1 is all of them, -2 all but one
    if name == "SlurmLauncher":
        return int(get(config, "array_parallelism") or 1)
    if name == "RayLauncher":
        total = get(config, "ray.init.num_cpus") or len(cores())
        return max(1, int(total / (get(config, "ray.remote.num_cpus") or 1)))
    return len(cores())  # submitit on this machine, which begins all at once
