"""The processes of a run of several ranks: how the others are started, wherever the first one runs."""

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytorch_lightning as pl
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import distributed

from lab.engine.distributed.watchdog import Watchdog


class Launcher(_SubprocessScriptLauncher):
    """Starts the other ranks, each with a command of its own; and a rank that dies does not have the first one killed
    unheard.

    Args:
        theirs: the one that Lightning made.
        watch: is told of the processes.
    """

    given: ClassVar[set[str]] = set()  # variables of this process's environment that one has set

    def __init__(self, theirs: _SubprocessScriptLauncher, watch: Watchdog) -> None:
        super().__init__(theirs.cluster_environment, theirs.num_processes, theirs.num_nodes)
        self.watch = watch
        self.command: Sequence[str] = ()  # of the other ranks; without one Lightning repeats that of this process
        self.cwd: str | None = None
        self._store: Any = None

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            self.watch.begin(self.procs)
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _call_children_scripts(self) -> None:
        before = set(os.environ)
        if "MASTER_PORT" not in os.environ and self.num_nodes == 1:
            # Held from now on: a port that is merely free is free for the job beside this one, too. The ranks' own
            # store finds that this process serves the port already, and shares it
            self._store = distributed.TCPStore(  # type: ignore[attr-defined]
                "127.0.0.1", 0, is_master=True, wait_for_workers=False, multi_tenant=True
            )
            os.environ["MASTER_PORT"] = str(self._store.port)
        if self.command:
            self._start_ranks()
        else:
            super()._call_children_scripts()
        Launcher.given |= set(os.environ) - before

    def _start_ranks(self) -> None:
        self._check_can_spawn_children()
        where = self.cluster_environment
        os.environ["MASTER_ADDR"] = where.main_address
        os.environ["MASTER_PORT"] = str(where.main_port)
        os.environ["NODE_RANK"] = str(where.node_rank())
        os.environ["LOCAL_RANK"] = str(where.local_rank())
        os.environ["WORLD_SIZE"] = str(self.num_processes * self.num_nodes)
        self.procs = [
            subprocess.Popen(
                self.command,
                env=os.environ | {"LOCAL_RANK": str(rank)},
                cwd=self.cwd,
            )
            for rank in range(1, self.num_processes)
        ]

    @classmethod
    def release(cls) -> None:
        """Takes back what was set in the environment, so that the next job of this process can start its own ranks."""
        for name in cls.given:
            os.environ.pop(name, None)
        cls.given.clear()


def watchdog_of(trainer: pl.Trainer) -> Watchdog:
    """The watch of a trainer; where none was asked for, the one that its launcher gives the processes to."""
    if isinstance(launcher := trainer.strategy.launcher, Launcher):
        return launcher.watch
    return next((c for c in trainer.callbacks if isinstance(c, Watchdog)), Watchdog())  # type: ignore[attr-defined]
