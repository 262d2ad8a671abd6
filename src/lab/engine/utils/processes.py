"""Processes that end with the one that started them, also where that was killed."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping

PR_SET_PDEATHSIG = 1  # prctl(2): the signal that this process is sent when the one that started it is gone


def set_parent_death_signal(parent: int) -> Callable[[], None]:
    """What a process calls to be sent SIGTERM when `parent`, which started it, is gone; nothing outside of Linux.

    The C library is loaded here, and not between fork and exec.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it was gone before it was asked for
                os._exit(1)

    return prepare


def global_rank(environ: Mapping[str, str] = os.environ) -> int:
    """Returns the rank of this process before anything is loaded that knows: torchrun's, srun's, or ours."""
    if rank := environ.get("RANK"):
        return int(rank)
    # Of a task of srun or jsrun the former, of a process that rank 0 starts in a job the latter
    names = ("SLURM_PROCID", "JSM_NAMESPACE_RANK", "LOCAL_RANK")
    return next((int(environ[name]) for name in names if int(environ.get(name) or 0)), 0)
