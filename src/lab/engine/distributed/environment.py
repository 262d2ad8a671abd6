"""Tells Lightning the rank of this process, and the address where the ranks meet."""

import os
import socket

from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from lab.engine.utils.errors import UserError

SCHEDULERS = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)  # Lightning's order


def cluster_environment(num_nodes: int = 1) -> ClusterEnvironment:
    """Returns Lightning's environment of torchrun, Slurm, LSF or MPI if one of them started this process, else ours.

    Args:
        num_nodes: machines of the run.
    """
    scheduler = next((scheduler for scheduler in SCHEDULERS if scheduler.detect()), None)
    return RankEnvironment(num_nodes) if scheduler is None else scheduler()


class RankEnvironment(LightningEnvironment):
    """Describes ranks that `launcher.start_ranks`, or a user, starts with `LOCAL_RANK` in their environment.

    Lightning's environment picks a port that is free at that moment: a job beside this one may take it. It also leaves
    the port in `os.environ` for the next job of a sweep. This one holds its port, on the loopback interface, from the
    first access until `release`.

    Args:
        num_nodes: machines. With several, a user starts this process on each, with `MASTER_ADDR`, `MASTER_PORT` and
            `NODE_RANK` set.
    """

    creates_processes_externally = True

    def __init__(self, num_nodes: int = 1) -> None:
        super().__init__()
        self.is_started = "LOCAL_RANK" in os.environ  # by rank 0 or a user: this process starts no ranks
        self.has_address = self.is_started or num_nodes > 1  # in the environment, set by what started the ranks
        self._store: TCPStore | None = None
        self.set_global_rank(self.node_rank() + self.local_rank())  # until Lightning has counted: 0 for rank 0 alone

    @property
    def main_address(self) -> str:
        return _required("MASTER_ADDR") if self.has_address else "127.0.0.1"

    @property
    def main_port(self) -> int:
        if self.has_address:
            return int(_required("MASTER_PORT"))
        if self._store is None:
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                listener.listen()
                port = listener.getsockname()[1]
                # torch's rendezvous shares the store that this process serves on the port already
                self._store = TCPStore(
                    *("127.0.0.1", port),
                    is_master=True,
                    wait_for_workers=False,
                    multi_tenant=True,
                    master_listen_fd=listener.detach(),
                )
        return int(self._store.port)

    def release(self) -> None:
        """Frees the port."""
        self._store = None


def _required(name: str) -> str:
    if name not in os.environ:
        raise UserError(f"{name} is not set: ranks that are started by hand need MASTER_ADDR and MASTER_PORT to meet")
    return os.environ[name]
