"""What this machine has, asked without torch, which takes seconds to load."""

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path


def count_gpus() -> int:
    """GPUs that torch will see: NVIDIA's by their driver, narrowed by CUDA_VISIBLE_DEVICES; others are trusted."""
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
    return (
        count.value
        if visible is None
        else min(count.value, len([v for v in visible.split(",") if v not in ("", "-1")]))
    )


def has_package(name: str) -> bool:
    """Whether a package that is an extra is installed."""
    return find_spec(name) is not None
