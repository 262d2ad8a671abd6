"""Tells ranks apart, gathers values from them, and ends child processes with their parent."""

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytorch_lightning as pl

PR_SET_PDEATHSIG = 1  # prctl(2): sets the signal that this process receives when its parent dies


def set_parent_death_signal(parent: int) -> Callable[[], None]:
    """Returns a `preexec_fn` that asks Linux to send SIGTERM to the new process when `parent` dies; elsewhere a no-op.

    The C library is loaded here, and not between fork and exec.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # the parent died before prctl
                os._exit(1)

    return prepare


def is_alive(pid: int) -> bool:
    """Returns whether a process of this machine is there, and has not ended: its parent may not have asked yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    with suppress(OSError):  # no Linux
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def pid_namespace() -> int:
    """Returns the number of the namespace that numbers this process: containers have their own. 0 outside of Linux."""
    with suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino
    return 0


def global_rank(environ: Mapping[str, str] = os.environ) -> int:
    """Returns the rank of this process from its environment, as torchrun, srun or our launcher set it."""
    if rank := environ.get("RANK"):
        return int(rank)
    # srun and jsrun set the first two, our launcher the third, also within a job of Slurm
    names = ("SLURM_PROCID", "JSM_NAMESPACE_RANK", "LOCAL_RANK")
    return next((int(environ[name]) for name in names if int(environ.get(name) or 0)), 0)


def world_size(environ: Mapping[str, str] = os.environ) -> int:
    """Returns how many ranks torchrun, srun or our launcher has started with this one; 1 where it was none of them."""
    if not {"RANK", "SLURM_PROCID", "LOCAL_RANK"} & environ.keys():
        return 1
    return int(environ.get("WORLD_SIZE") or environ.get("SLURM_NTASKS") or 1)


def torchrun_ranks(environ: Mapping[str, str] = os.environ) -> dict[str, int]:
    """Returns `devices` of each machine and `num_nodes` as torchrun has started ranks for them; nothing without it.

    After a restart there may be others than before.
    """
    if "TORCHELASTIC_RUN_ID" not in environ:
        return {}
    devices = int(environ["LOCAL_WORLD_SIZE"])
    return {"devices": devices, "num_nodes": int(environ["WORLD_SIZE"]) // devices}


def scheduled_jobs(environ: Mapping[str, str] = os.environ) -> dict[str, dict[str, Any]]:
    """Returns the jobs that this process belongs to, of `slurm` and of `torchrun`: `id` and number of `restarts`."""
    jobs = {}
    if "SLURM_JOB_ID" in environ:
        jobs["slurm"] = {"id": environ["SLURM_JOB_ID"], "restarts": int(environ.get("SLURM_RESTART_COUNT") or 0)}
    if "TORCHELASTIC_RUN_ID" in environ:
        name = environ["TORCHELASTIC_RUN_ID"]
        identity = f"{socket.gethostname()}:{os.getppid()}" if name == "none" else name  # where no --rdzv-id was given
        jobs["torchrun"] = {"id": identity, "restarts": int(environ.get("TORCHELASTIC_RESTART_COUNT") or 0)}
    return jobs


def gather_objects(value: Any, trainer: "pl.Trainer") -> list[Any]:
    """Returns the `value` of every rank, ordered by rank. All ranks must call it together."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        from torch import distributed

        distributed.all_gather_object(values, value)
    return values
