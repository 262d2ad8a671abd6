"""Opens the store in which the ranks of a run meet, and tells them the run directory there."""

import os
from datetime import timedelta
from pathlib import Path

from pytorch_lightning.plugins.environments import ClusterEnvironment  # type: ignore[attr-defined]
from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lab.engine.distributed.environment import cluster_environment
from lab.engine.utils.errors import RunFailed

RUN_DIR = "run_dir"
WAIT = timedelta(minutes=5)  # for rank 0 to load torch, which may come over a network, and to begin its run


def open_store(environment: ClusterEnvironment) -> Store:
    """Opens the store that torch's own rendezvous will use, under keys of our own.

    Rank 0 serves it, unless torchrun does. Safe to call before and after `init_process_group`: the server of a port is
    shared within its process.
    """
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun, where it is told to share its own
    store = TCPStore(
        *(environment.main_address, environment.main_port),
        is_master=environment.global_rank() == 0 and not served,
        wait_for_workers=False,
        multi_tenant=True,
        timeout=WAIT,
    )
    return PrefixStore(f"lab-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def announce_run_dir(store: Store, run_dir: Path) -> None:
    """Tells the other ranks where the run of rank 0 is; its config is saved there by now."""
    store.set(RUN_DIR, str(run_dir.resolve()))


def await_run_dir() -> Path:
    """Waits for the run directory of rank 0, in a process that torchrun or srun has started beside it.

    Raises:
        RunFailed: when rank 0 does not come: its command line was wrong, say.
    """
    environment = cluster_environment()
    where = f"{environment.main_address}:{environment.main_port}"
    try:
        return Path(open_store(environment).get(RUN_DIR).decode())
    except DistError as error:
        minutes = int(WAIT.total_seconds()) // 60
        raise RunFailed(
            f"rank {environment.global_rank()}: rank 0 has begun no run within {minutes} minutes ({where}): {error}"
        ) from error
