"""Counts how many jobs can run at a time: the slots of this machine, GPUs or cores, and those of each launcher."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from lab.engine.config.compose import get
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    """Holds one job at a time.

    Args:
        name: for the log.
        environment: what a job in it is told.
        cores: that it is held to; none for all.
    """

    name: str
    environment: Mapping[str, str]
    cores: Sequence[int] = ()


def device_slots(
    jobs_per_device: int = 1, devices: Sequence[int] | None = None, devices_per_job: int = 1, cores_per_job: int = 1
) -> list[Slot]:
    """Divides this machine into slots. See `GpuPoolLauncher` for the arguments.

    Raises:
        UserError: for a device that is not there, and for a job that is too large.
    """
    visible = _visible_gpus()
    if devices is not None:
        if missing := [device for device in devices if device not in range(len(visible))]:
            has = f"0 to {len(visible) - 1}" if visible else "none; leave it out for the cores"
            raise UserError(f"hydra.launcher.devices: expected a list of this machine's GPUs ({has}), not {missing[0]}")
        visible = [visible[device] for device in dict.fromkeys(devices)]
    if visible:
        groups = _groups("devices_per_job", visible, devices_per_job, "GPU")
        found = [Slot(f"GPU {','.join(group)}", {"CUDA_VISIBLE_DEVICES": ",".join(group)}) for group in groups]
    else:
        threads = {"OMP_NUM_THREADS": str(cores_per_job)}
        taken = _groups("cores_per_job", cores(), cores_per_job, "core")
        found = [Slot(f"core {','.join(map(str, group))}", threads, group) for group in taken]
    return [slot for slot in found for _ in range(jobs_per_device)]


def parallel_jobs(launcher: Launcher, config: DictConfig) -> int:
    """Returns how many jobs of one launch a launcher runs at once.

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


def cores() -> list[int]:
    """Returns the numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]


def _visible_gpus() -> list[str]:
    """Returns the entry of CUDA_VISIBLE_DEVICES for each GPU that torch will see: a number, or a name given there."""
    count, given = machine.count_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(count)] if given is None else [v.strip() for v in given.split(",")]
    return [name for name in names if name not in ("", "-1")][:count]


def _groups(key: str, every: Sequence[T], size: int, unit: str) -> list[Sequence[T]]:
    if size > len(every):
        raise UserError(f"hydra.launcher.{key}={size}: there are {len(every)} {unit}s here")
    return [every[i : i + size] for i in range(0, len(every) - size + 1, size)]
