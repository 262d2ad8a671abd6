"""Counts GPUs and memory and finds packages without loading torch, which takes seconds."""

import ctypes
import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

AMD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")  # of AMD's driver; each processor is one


def count_gpus() -> int:
    """Returns the number of GPUs that torch will see, as the drivers and the variables that hide GPUs say."""
    if sys.platform == "darwin":
        return 1
    if count := _count_nvidia():
        return _visible(count, "CUDA_VISIBLE_DEVICES")
    return _visible(_count_amd(), "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


def _count_nvidia() -> int:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1" if os.name != "nt" else "nvml.dll")
    except OSError:
        return 0
    count = ctypes.c_uint(0)
    return 0 if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) else count.value


def _count_amd() -> int:
    count = 0
    for path in AMD_NODES.glob("*/gpu_id"):
        with suppress(OSError):  # a container may read its own GPUs alone
            count += path.read_text().strip() != "0"  # which is a CPU
    return count


def _visible(count: int, *variables: str) -> int:
    """Returns how many of `count` GPUs are left by variables that list some of them."""
    for value in (os.environ[name] for name in variables if name in os.environ):
        count = min(count, sum(device.strip() not in ("", "-1") for device in value.split(",")))
    return count


def has_package(name: str) -> bool:
    """Returns whether a package is installed."""
    return find_spec(name) is not None


def memory() -> int:
    """Returns the bytes of memory that this process may use: the machine's, or fewer where a container says so."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # of the other version, or no limit
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(limits)
