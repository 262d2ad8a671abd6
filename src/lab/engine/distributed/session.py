"""Starts the ranks of a run, watches them, and ends them together."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from torch import distributed

from lab.engine.distributed.environment import RankEnvironment
from lab.engine.distributed.heartbeat import failed_first
from lab.engine.distributed.launcher import start_ranks
from lab.engine.distributed.preemption import SignalHandler
from lab.engine.distributed.rendezvous import announce_run_dir, open_store
from lab.engine.distributed.watchdog import Watchdog
from lab.engine.utils.errors import Preempted, RunFailed, UserError

log = logging.getLogger(__name__)


@contextmanager
def supervised_ranks(
    trainer: pl.Trainer, run_dir: Path, signals: SignalHandler, on_abort: Callable[[str, str], Any]
) -> Iterator[None]:
    """Starts the other ranks of a run, ends all ranks together, and raises the error of the rank that failed first.

    Args:
        trainer: built with `environment.cluster_environment`; nothing has been fitted with it yet.
        run_dir: of the run; its config must be saved there.
        signals: of this process, for which all ranks stop.
        on_abort: called with the run's status and the cause, in the rank that tells the user why another one failed.

    Raises:
        RunFailed: in rank 0, when another rank failed first.
        Preempted: when a signal stopped another rank.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size == 1 or environment is None or type(environment) is LightningEnvironment:
        yield
        return
    if not trainer.is_global_zero:  # only rank 0 logs progress
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.WARNING)
    children = start_ranks(trainer, environment, run_dir) if isinstance(environment, RankEnvironment) else []
    store = open_store(environment)
    if trainer.is_global_zero:
        announce_run_dir(store, run_dir)
    watchdog = next((c for c in trainer.callbacks if isinstance(c, Watchdog)), Watchdog(float("inf")))  # type: ignore[attr-defined]
    first = trainer.global_rank - trainer.local_rank
    neighbours = range(first, first + trainer.num_devices)
    watchdog.start(store, trainer.global_rank, neighbours, trainer.world_size, children, signals, on_abort)
    completed = False
    try:
        yield
        completed = True
    except Preempted as stopped:
        if failure := watchdog.loss(stopped):
            raise failure from stopped
        raise
    except Exception as error:
        if failure := watchdog.first_failure(error):
            raise failure from error
        if trainer.is_global_zero:
            error.add_note(failed_first(0))
        elif not watchdog.is_first_left():  # rank 0 tells the user
            if not isinstance(error, UserError | RunFailed):
                log.error("the error of rank %d", trainer.global_rank, exc_info=error)
            raise SystemExit(1) from error
        raise
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        watchdog.stop(completed or signals.has_stopped)
        if isinstance(environment, RankEnvironment):
            environment.release()
