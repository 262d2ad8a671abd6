"""Counts GPUs and finds packages without loading torch, which takes seconds."""

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path


def count_gpus() -> int:
    """Returns the number of GPUs that torch will see: NVIDIA's as driver and CUDA_VISIBLE_DEVICES say, of others 1."""
    if sys.platform == "darwin" or Path("/dev/kfd").exists():
        return 1
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1" if os.name != "nt" else "nvml.dll")
    except OSError:
        return 0
    count = ctypes.c_uint(0)
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count.value
    return min(count.value, sum(device not in ("", "-1") for device in visible.split(",")))


def has_package(name: str) -> bool:
    """Returns whether a package is installed."""
    return find_spec(name) is not None
