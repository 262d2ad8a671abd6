"""Counts GPUs and memory, and finds packages, without loading torch, which takes seconds."""

import ctypes
import os
import sys
import sysconfig
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from shutil import which

AMD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")  # of AMD's driver; each processor is one
CGROUPS = Path("/sys/fs/cgroup")  # of Linux, version 2


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


def memory_limit() -> int:
    """Returns the bytes of memory that this process may use: the machine's, or its control group's if less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2].lstrip("/")
        for folder in (CGROUPS / group, *(CGROUPS / group).parents):
            with suppress(OSError, ValueError):  # the root has no such file; `max` is no number
                limits.append(int((folder / "memory.max").read_text()))
    return min(limits)


def has_package(name: str) -> bool:
    """Returns whether a package is installed."""
    return find_spec(name) is not None


def find_compiler(variable: str) -> str | None:
    """Returns the compiler that torch.compile will use: the variable's, or else the first that is there.

    Args:
        variable: CXX, a C++ compiler for kernels of CPUs; or CC, a C compiler for those of GPUs.
    """
    names = {"CXX": ["clang++" if sys.platform == "darwin" else "g++"], "CC": ["gcc", "clang"]}[variable]
    candidates = [os.environ[variable].split(" ")[0]] if os.environ.get(variable) else names
    return next(filter(None, map(which, candidates)), None)


def has_python_headers() -> bool:
    """Returns whether the headers of Python are installed, which compiled kernels include."""
    return (Path(sysconfig.get_path("include")) / "Python.h").is_file()
