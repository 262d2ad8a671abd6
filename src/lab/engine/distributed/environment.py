"""Tells Lightning which rank this process is, and where the ranks meet."""

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
    """Makes Lightning's environment of torchrun, Slurm, LSF or MPI where one of them started this process, else ours.

    Args:
        num_nodes: machines of the run.
    """
    scheduler = next((scheduler for scheduler in SCHEDULERS if scheduler.detect()), None)
    return RankEnvironment(num_nodes) if scheduler is None else scheduler()


class RankEnvironment(LightningEnvironment):
    """Ranks that `launcher.start_ranks`, or a user, starts with `LOCAL_RANK` in their environment.

    Lightning's own environment picks a port that is free for the moment, which the job beside this one may take, and
    leaves it in `os.environ` for the next job of a sweep. This one holds its port, on the loopback interface, from the
    first time that it is asked for until `release`.

    Args:
        num_nodes: machines; with several a user starts this process on each, with `MASTER_ADDR`, `MASTER_PORT` and
            `NODE_RANK`.
    """

    creates_processes_externally = True

    def __init__(self, num_nodes: int = 1) -> None:
        super().__init__()
        self.is_started = "LOCAL_RANK" in os.environ  # by rank 0 or by a user: this process starts no other
        self.is_served = self.is_started or num_nodes > 1  # whoever started the ranks has told them where to meet
        self._store: TCPStore | None = None
        self.set_global_rank(self.node_rank() + self.local_rank())  # until Lightning has counted: 0 for rank 0 alone

    @property
    def main_address(self) -> str:
        return _variable("MASTER_ADDR") if self.is_served else "127.0.0.1"

    @property
    def main_port(self) -> int:
        if self.is_served:
            return int(_variable("MASTER_PORT"))
        if self._store is None:
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                listener.listen()
                port = listener.getsockname()[1]
                # torch's rendezvous finds that this process serves the port already, and shares the store
                self._store = TCPStore(
                    *("127.0.0.1", port),
                    is_master=True,
                    wait_for_workers=False,
                    multi_tenant=True,
                    master_listen_fd=listener.detach(),
                )
        return int(self._store.port)

    def release(self) -> None:
        """Gives the port back."""
        self._store = None


def _variable(name: str) -> str:
    if name not in os.environ:
        raise UserError(f"{name} is not set: ranks that are started by hand need MASTER_ADDR and MASTER_PORT to meet")
    return os.environ[name]
