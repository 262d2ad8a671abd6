"""Opens the store that the ranks of a run share: it tells them the run directory, and why one of them ended."""

import ipaddress
import os
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.environments import ClusterEnvironment  # type: ignore[attr-defined]
from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lab.engine.distributed.environment import cluster_environment
from lab.engine.distributed.heartbeat import failed_first
from lab.engine.utils.errors import RunFailed

# Keys in the store
RUN_DIR = "run_dir"
CAUSE = "cause"  # of the run's end
TOLD = "told"  # set once the user has been told of it
HEARD = "heard"  # number of ranks that ended for it before they were watched

WAIT = timedelta(minutes=5)  # for rank 0 to load torch, perhaps over a network, and to start the run
LAST_WORDS = timedelta(seconds=5)  # for the others to hear of a rank that ends


def open_store(environment: ClusterEnvironment, wait: timedelta = WAIT) -> Store:
    """Opens the store of torch's own rendezvous, with a prefix for our keys.

    Rank 0 serves it, unless torchrun does: on one interface where the address is a number, on all where it is a name,
    which may mean something else on other machines. May be called before and after `init_process_group`: a process
    shares the server of a port.

    Args:
        environment: which knows the address.
        wait: for rank 0 to serve the store.
    """
    address, port = environment.main_address, environment.main_port
    is_master = environment.global_rank() == 0 and not is_torchruns()
    store = TCPStore(
        *(address, port),
        is_master=is_master,
        wait_for_workers=False,
        multi_tenant=True,
        timeout=wait,
        **(_listen(address, port) if is_master else {}),
    )
    # torchrun's store outlives a restart; each of its agents counts those that it has seen itself
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"] if is_torchruns() else "0"
    return PrefixStore(f"lab-{attempt}", store)


def is_torchruns() -> bool:
    """Returns whether torchrun serves the store, and not rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def announce_run_dir(store: Store, run_dir: Path) -> None:
    """Sends the run directory to the other ranks; its config must be saved there."""
    store.set(RUN_DIR, str(run_dir.resolve()))


def await_run_dir() -> Path:
    """Waits for the run directory from rank 0, in a rank that torchrun or srun started.

    Raises:
        RunFailed: when rank 0 does not send it in time.
        SystemExit: when another rank has ended, which says why: perhaps the command line was wrong.
    """
    environment = cluster_environment()
    address = f"{environment.main_address}:{environment.main_port}"
    who = f"rank {environment.global_rank()} on {socket.gethostname()}"
    try:
        store = open_store(environment)
        deadline = time.monotonic() + WAIT.total_seconds()
        while not store.check([RUN_DIR]):
            if store.check([CAUSE]):
                store.add(HEARD, 1)
                sys.exit(1)
            if time.monotonic() > deadline:
                raise RunFailed(f"{who}: rank 0 has started no run within {WAIT.seconds // 60} minutes ({address})")
            time.sleep(0.1)
        return Path(store.get(RUN_DIR).decode())
    except DistError as error:
        raise RunFailed(f"{who} does not reach rank 0 ({address}): {error}") from error


def end_together(error: Exception, world_size: int) -> bool:
    """Tells the other ranks why this one ends, before it is watched.

    Returns:
        Whether rank 0 tells the user, so that this rank need not.
    """
    environment = cluster_environment()
    rank = environment.global_rank()
    try:
        store = open_store(environment, wait=LAST_WORDS)
        store.compare_set(CAUSE, "", failed_first(rank, f"{type(error).__name__}: {error}"))
        if rank == 0:
            tell_others(store, world_size - 1)
            return False
        deadline = time.monotonic() + LAST_WORDS.total_seconds()
        while time.monotonic() < deadline:
            if store.check([TOLD]):
                store.add(HEARD, 1)
                return True
            time.sleep(0.1)
    except DistError:  # rank 0 is gone
        pass
    return False


def tell_others(store: Store, listeners: int) -> None:
    """Tells ranks that end before they are watched that the user knows why, and waits until so many have heard of it.

    Rank 0 may serve the store, and takes it away when it ends.
    """
    store.set(TOLD, "")
    deadline = time.monotonic() + LAST_WORDS.total_seconds()
    while store.add(HEARD, 0) < listeners and time.monotonic() < deadline:
        time.sleep(0.05)


def _listen(address: str, port: int) -> dict[str, Any]:
    """Listens on the interface of an address that is a number; returns what a TCPStore takes of it.

    Returns nothing for a name, for a port that this process listens on already, and for an address of a router.
    """
    try:
        version = ipaddress.ip_address(address).version
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        return {"master_listen_fd": socket.create_server((address, port), family=family).detach()}
    except (OSError, ValueError):
        return {}
