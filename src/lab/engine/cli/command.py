"""Judges a command line before Hydra acts on it: what will run is composed by Hydra's public API, and checked."""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lab.engine.cli.flags import parse_flags
from lab.engine.config.compose import compose, parse
from lab.engine.config.composition_errors import check_config_name, composition_errors
from lab.engine.config.override_rules import check_groups, check_overrides
from lab.engine.config.overrides import raw_overrides, to_override
from lab.engine.config.validate import validate
from lab.engine.runs.resume import resumed_config
from lab.engine.sweeps.validate import validate_sweep
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import CONFIGS, ROOT
from lab.engine.utils.processes import global_rank


def check_command(arguments: Sequence[str]) -> None:
    """Composes what a command line of `src/train.py` would run, and refuses what is wrong or would run code.

    Nothing is written, and nothing that a config names is built. Hydra composes the same once more.

    Raises:
        UserError: on the first thing that is wrong.
    """
    flags = parse_flags(arguments)
    if flags.shell_completion:
        return
    directory = _config_directory(flags)
    name = None if flags.hydra_help else flags.config_name or "train"
    if name is not None:
        check_config_name(name, directory)
    with initialize_config_dir(str(directory), job_name="train", version_base="1.3"), composition_errors():
        parsed = parse(flags.overrides)
        check_groups(parsed)
        overrides = _with_search_path(parsed, flags.config_dir, directory / f"{name}.yaml")
        swept = [override for override in parsed if override.is_sweep_override()]
        config = compose(overrides, hydra=True, name=name, multirun=flags.multirun or bool(swept))
        multirun = flags.multirun or config.hydra.mode == RunMode.MULTIRUN  # which a search space says
        if swept and not multirun:
            raise UserError(f"{swept[0].input_line}: several values are for --multirun; one list is written key=[a,b]")
        if flags.help or flags.hydra_help or flags.cfg or flags.info:
            return
        (check_sweep if multirun else check_run)(config)


def resolve(cfg: DictConfig) -> DictConfig:
    """Returns the config that a process trains with: of a run that goes on, what it saved.

    A sweep's job is checked here: `check_command` looks at a part of them where there are many.
    """
    cfg = resumed_config(cfg)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        validate(cfg)
    return cfg


def check_run(config: DictConfig) -> None:
    """Checks the config of a single run, as composed with its `hydra` node, and the directory that it is to have."""
    job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    goes_on = job.resume or job.attach
    overrides = raw_overrides(job.changes if goes_on else config.hydra.overrides.task)
    if config.hydra.output_subdir is None and not goes_on:
        raise UserError("hydra.output_subdir=null: a run saves its config in .hydra, and cannot be resumed without it")
    run = resumed_config(job)
    check_overrides(overrides, run)
    validate(run)
    given = not OmegaConf.is_interpolation(config.hydra.run, "dir")  # else it is a new one, with the time in it
    directory = Path(config.hydra.run.dir if given else config.paths.log_dir)
    if given and (directory / "run.json").exists() and not goes_on and global_rank() == 0:
        raise UserError(
            f"{directory} holds a run already: go on with it by resume={directory}, or choose another hydra.run.dir"
        )
    _check_writable(directory)


def check_sweep(config: DictConfig) -> None:
    """Checks a sweep: before the first job is trained the last one is known to be right. See `check_run`."""
    validate_sweep(config)
    given = not OmegaConf.is_interpolation(config.hydra.sweep, "dir")
    _check_writable(Path(config.hydra.sweep.dir if given else config.paths.log_dir))


def _config_directory(flags: Namespace) -> Path:
    """Finds where primary configs are: `--config-path` is relative to `src/train.py`."""
    directory = Path(os.path.abspath(ROOT / "src" / flags.config_path)) if flags.config_path else CONFIGS
    for flag, folder in (("--config-path", directory), ("--config-dir", Path(flags.config_dir or "."))):
        if not folder.is_dir():
            raise UserError(f"{flag}: {folder} is no folder")
    return directory


def _with_search_path(overrides: Sequence[Override], config_dir: str | None, primary: Path) -> list[str]:
    """Returns the overrides with `--config-dir` among them: Hydra looks there before any other folder of its path."""
    lines = [str(override.input_line) for override in overrides]
    if config_dir is None:
        return lines
    given = [o.value() for o in overrides if o.get_key_element() == "hydra.searchpath"]
    own = OmegaConf.select(OmegaConf.load(primary), "hydra.searchpath") if primary.is_file() else None
    others: Any = given[0] if given else own
    searched = [f"file://{os.path.abspath(config_dir)}", *(others or [])]
    rest = [line for line in lines if not line.startswith("hydra.searchpath=")]
    return [f"hydra.searchpath={to_override(searched)}", *rest]


def _check_writable(directory: Path) -> None:
    """Refuses a directory that cannot be made, or not be written to; it is not made here."""
    for place in (directory, *directory.absolute().parents):
        if os.path.lexists(place):
            if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
                why = "cannot be written to" if place.is_dir() else "is no folder"
                raise UserError(f"{directory}: {place} {why}; runs are written under paths.log_dir: choose another")
            return
