"""Trains from a notebook or another program: `lab.train(["model=mlp", "data=blobs"])`, as `src/train.py` would.

The command line's checks, run directory, log and messages, without its exits: mistakes are raised as `UserError`.
"""

import json
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from lab.engine.cli.arguments import hydra_arguments
from lab.engine.cli.command import check_command, resolve
from lab.engine.cli.errors import as_expected, log_traceback
from lab.engine.runs.run import Run
from lab.engine.utils.console import log_to_stderr, shown
from lab.engine.utils.environment import set_variables
from lab.engine.utils.errors import Preempted, RunFailed, UserError
from lab.engine.utils.paths import CONFIGS
from lab.engine.utils.redaction import COMMAND_LINE


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Composes and checks the config that a run with these overrides trains with; loads no torch.

    Args:
        overrides: as on the command line: `["model=mlp", "optimizer.lr=1e-3"]`.

    Raises:
        UserError: for the first mistake.
    """
    with _errors_raised(overrides):
        return _check(overrides)[1]


def train(overrides: Sequence[str] = ()) -> Run:
    """Trains, tests and records a run in a directory of its own, or resumes one: `["resume=latest"]`.

    Args:
        overrides: as on the command line: `["model=mlp", "optimizer.lr=1e-3"]`.

    Returns:
        The run, with its metrics and its model.

    Raises:
        UserError: for the first mistake, before anything is written.
        RunFailed: for what the machine or the data refuses.
        KeyboardInterrupt: when it was interrupted; the run is saved.
    """
    with _errors_raised(overrides):
        arguments, _ = _check(overrides)
        with initialize_config_dir(str(CONFIGS), job_name="train", version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            job: Any = hydra.run("train", _train, arguments)
        return Run.open(job.hydra_cfg.hydra.runtime.output_dir)


def _train(cfg: DictConfig) -> float | None:
    cfg = resolve(cfg)
    from lab.engine.training.train import train as train_run  # torch and Lightning load here

    return train_run(cfg)


def _check(overrides: Sequence[str]) -> tuple[list[str], DictConfig]:
    """Returns the arguments that Hydra sees, and the config that they make."""
    if isinstance(overrides, str):
        raise UserError(f"{overrides!r}: give a list of overrides, {overrides.split()}")
    arguments = hydra_arguments(overrides, os.environ)
    flags = [argument for argument in arguments if argument.startswith("-")]
    config = None if flags else check_command(arguments)
    if config is None:
        what = flags[0] if flags else "hydra.mode=MULTIRUN"
        raise UserError(f"{what}: a notebook trains one run at a time; sweeps and flags are src/train.py's")
    return arguments, config


@contextmanager
def _errors_raised(overrides: Sequence[str]) -> Iterator[None]:
    """Raises the errors that would end a command line, and restores logging at the end."""
    set_variables(**{COMMAND_LINE: json.dumps([*overrides])})  # what the user typed may read secrets, files may not
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    try:
        with log_to_stderr():
            yield
    except Preempted as stopped:
        if stopped.signal == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        if (expected := as_expected(error)) is not None:
            kind = UserError if isinstance(expected, UserError) else RunFailed
            raise kind(shown(str(expected))) from None
        log_traceback(error)
        raise
    finally:
        for handler in [*root.handlers]:
            root.removeHandler(handler)
            if handler not in handlers:  # of the run's train.log
                handler.close()
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)
