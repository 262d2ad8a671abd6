"""Starts the other ranks of a run on this machine, each in a process of its own."""

import os
import subprocess
import threading
from pathlib import Path

import pytorch_lightning as pl
import torch

from lab.engine.distributed.environment import RankEnvironment
from lab.engine.runs.attach import attach_command
from lab.engine.utils.processes import set_parent_death_signal

Process = subprocess.Popen[bytes]


def start_ranks(trainer: pl.Trainer, environment: RankEnvironment, run_dir: Path) -> list[Process]:
    """Starts every rank of this machine but rank 0, which is this process; none where something else starts them."""
    _set_threads(trainer.num_devices)
    if environment.is_started:
        return []
    variables = os.environ | {
        "MASTER_ADDR": environment.main_address,
        "MASTER_PORT": str(environment.main_port),
        "NODE_RANK": str(environment.node_rank()),
        "WORLD_SIZE": str(environment.world_size()),
    }
    # Linux sends the signal already when the thread ends that started the process
    in_main = threading.current_thread() is threading.main_thread()
    prepare = set_parent_death_signal(os.getpid()) if in_main else None
    return [
        subprocess.Popen(attach_command(run_dir), env=variables | {"LOCAL_RANK": str(rank)}, preexec_fn=prepare)
        for rank in range(1, trainer.num_devices)
    ]


def _set_threads(ranks: int) -> None:
    """Divides the cores of this machine among its ranks, unless `OMP_NUM_THREADS` is set."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // ranks))
