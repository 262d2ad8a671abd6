"""The places that this machine has for jobs: its GPUs, or its cores where there are none."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lab.engine.utils import machine
from lab.engine.utils.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    """A place for one job.

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
    """The places of this machine. See `GpuPoolLauncher` for the arguments.

    Raises:
        UserError: for a device that is not there, and for a job that is too large.
    """
    for name, size in (
        ("jobs_per_device", jobs_per_device),
        ("devices_per_job", devices_per_job),
        ("cores_per_job", cores_per_job),
    ):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UserError(f"hydra.launcher.{name}={size}: expected 1 or more")
    visible = _visible_gpus()
    if devices is not None:
        if isinstance(devices, int) or (missing := [d for d in devices if d not in range(len(visible))]):
            wrong = devices if isinstance(devices, int) else missing[0]
            has = f"0 to {len(visible) - 1}" if visible else "none; leave it out for the cores"
            raise UserError(f"hydra.launcher.devices: expected a list of this machine's GPUs ({has}), not {wrong}")
        visible = [visible[device] for device in dict.fromkeys(devices)]
    if visible:
        groups = _groups("devices_per_job", visible, devices_per_job, "GPU")
        found = [Slot(f"GPU {','.join(group)}", {"CUDA_VISIBLE_DEVICES": ",".join(group)}) for group in groups]
    else:
        threads = {"OMP_NUM_THREADS": str(cores_per_job)}
        taken = _groups("cores_per_job", cores(), cores_per_job, "core")
        found = [Slot(f"core {','.join(map(str, group))}", threads, group) for group in taken]
    return [slot for slot in found for _ in range(jobs_per_device)]


def cores() -> list[int]:
    """Those that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]


def _visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES would say of each GPU that torch will see: a number, or a name that is set already."""
    count, given = machine.count_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(count)] if given is None else [v.strip() for v in given.split(",")]
    return [name for name in names if name not in ("", "-1")][:count]


def _groups(key: str, every: Sequence[T], size: int, unit: str) -> list[Sequence[T]]:
    if size > len(every):
        raise UserError(f"hydra.launcher.{key}={size}: there are {len(every)} {unit}s here")
    return [every[i : i + size] for i in range(0, len(every) - size + 1, size)]
