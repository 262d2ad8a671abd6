"""Stands for what DIST and RESUME build: `distributed.session.ranks`, `distributed.preemption.preemption`, `Recorder`.

To be deleted when they are there, together with its import in train.py.
"""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from pytorch_lightning.utilities import rank_zero_only
from torch import distributed

from lab.engine.config.overrides import raw_overrides, to_override
from lab.engine.distributed import launch
from lab.engine.distributed.launcher import Launcher, watchdog_of
from lab.engine.distributed.preemption import SLURM_SIGNALS, SignalHandler
from lab.engine.distributed.slurm import requeue, starts_again
from lab.engine.runs.recorder import Record
from lab.engine.sweeps.sweep import is_over
from lab.engine.sweeps.workers import in_worker
from lab.engine.utils.errors import Preempted, RunFailed

log = logging.getLogger(__name__)


class Recorder(Record):
    """What RESUME makes of `Record`."""

    @contextmanager
    def recorded(self, cfg: DictConfig) -> Iterator[None]:  # type: ignore[override]
        overrides = raw_overrides(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
        with super().recorded(cfg, overrides):
            if (self.dir / ".hydra").is_dir() and not cfg.resume:
                self._save_config(cfg, overrides)
            yield

    def is_finished(self, cfg: DictConfig) -> bool:
        return is_over(self.dir)


class Handler(SignalHandler):
    """What DIST makes of `SignalHandler`."""

    def listen(self) -> None:
        for signum in self._previous:
            signal.signal(signum, self._hear)

    def raise_if_asked(self) -> None:
        if self.signum:
            raise Preempted(self.signum)


class Unstoppable(Handler):
    """For a run that nobody stops."""


@contextmanager
def preemption(run_dir: Path) -> Iterator[Handler]:
    """Listens to signals, and ends a run that was told to stop."""
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    if not first:
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.WARNING)
    try:
        with Handler() as stop:
            yield stop  # type: ignore[misc]
    except Preempted as stopped:
        if first:
            saved = (run_dir / "checkpoints" / "last.ckpt").is_file()
            what = f"go on with: python src/train.py resume={run_dir}" if saved else "no checkpoint was taken"
            log.info("stopped by %s; %s", stopped.signal.name, what)
            if stopped.signal in SLURM_SIGNALS:
                requeue()
        if in_worker() and not starts_again(stopped.signal):  # the worker goes on, and the sweep is told
            raise RunFailed(f"stopped by {stopped.signal.name}") from None
        raise
    finally:
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            if distributed.is_initialized():
                distributed.destroy_process_group()
            Launcher.release()


@contextmanager
def ranks(trainer: pl.Trainer, run: Record) -> Iterator[None]:
    """Starts the other ranks, and watches them."""
    if isinstance(launcher := trainer.strategy.launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = launcher = Launcher(launcher, watchdog_of(trainer))
        if HydraConfig.initialized():
            config = HydraConfig.get()
            words = [word for word in raw_overrides(config.overrides.task) if not word.startswith("resume=")]
            if run.record.get("resumed"):
                words.append(f"resume={to_override(str(run.dir))}")
            launcher.command = launch.command(config, words, run.dir)
            launcher.cwd = config.runtime.cwd
    if trainer.is_global_zero:
        devices = f"{trainer.num_nodes * trainer.num_devices} x {trainer.strategy.root_device.type}"
        run.note(devices=devices, threads=torch.get_num_threads())  # sums depend on both
    watch = watchdog_of(trainer)
    watch.at_end = lambda status, cause: run.finish(status, error=cause)
    try:
        yield
    except Exception as error:
        raise watch.blame(error) or error from error
    finally:
        watch.end()
