"""Opens the store that the ranks of a run share, and sends them the run directory through it."""

import os
from datetime import timedelta
from pathlib import Path

from pytorch_lightning.plugins.environments import ClusterEnvironment  # type: ignore[attr-defined]
from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lab.engine.distributed.environment import cluster_environment
from lab.engine.utils.errors import RunFailed

RUN_DIR = "run_dir"  # key in the store
WAIT = timedelta(minutes=5)  # for rank 0 to load torch, perhaps over a network, and to start the run


def open_store(environment: ClusterEnvironment) -> Store:
    """Opens the store of torch's own rendezvous, with a prefix for our keys.

    Rank 0 serves it, unless torchrun does. May be called before and after `init_process_group`: a process shares the
    server of a port.
    """
    torchrun_serves = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        *(environment.main_address, environment.main_port),
        is_master=environment.global_rank() == 0 and not torchrun_serves,
        wait_for_workers=False,
        multi_tenant=True,
        timeout=WAIT,
    )
    return PrefixStore(f"lab-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def announce_run_dir(store: Store, run_dir: Path) -> None:
    """Sends the run directory to the other ranks; its config must be saved there."""
    store.set(RUN_DIR, str(run_dir.resolve()))


def await_run_dir() -> Path:
    """Waits for the run directory from rank 0, in a rank that torchrun or srun started.

    Raises:
        RunFailed: when rank 0 does not send it in time, for example because its command line was wrong.
    """
    environment = cluster_environment()
    address = f"{environment.main_address}:{environment.main_port}"
    try:
        return Path(open_store(environment).get(RUN_DIR).decode())
    except DistError as error:
        minutes = int(WAIT.total_seconds()) // 60
        raise RunFailed(
            f"rank {environment.global_rank()}: rank 0 has started no run within {minutes} minutes ({address}): {error}"
        ) from error
