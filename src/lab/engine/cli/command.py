"""Checks a command line before Hydra acts on it: composes the config with Hydra's public API, and validates it."""

import logging
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lab.engine.cli.flags import parse_flags
from lab.engine.config.compose import compose, options, parse, with_search_path
from lab.engine.config.composition_errors import check_config_name, composition_errors, quoted_advice
from lab.engine.config.identity import check_fixed
from lab.engine.config.locations import make_absolute
from lab.engine.config.override_rules import check_groups, check_overrides
from lab.engine.config.overrides import raw_overrides
from lab.engine.config.security import resolve_hydra
from lab.engine.config.validate import validate
from lab.engine.runs.recorder import Recorder
from lab.engine.runs.resume import resumed_config
from lab.engine.sweeps.validate import validate_sweep
from lab.engine.utils.console import mask_handlers
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import check_name
from lab.engine.utils.paths import CONFIGS, ROOT
from lab.engine.utils.processes import global_rank


def check_command(arguments: Sequence[str]) -> DictConfig | None:
    """Composes what a command line of `src/train.py` would run, and refuses it if it is wrong or would run code.

    It writes nothing and builds nothing that a config names. Hydra composes the same config once more.

    Returns:
        The config of the run; None where the command trains none, or several.

    Raises:
        UserError: for the first mistake.
    """
    for place in (ROOT, Path.cwd()):
        check_name(place)
    flags = parse_flags(arguments)
    if flags.shell_completion:
        return None
    directory = _config_directory(flags)
    name = None if flags.hydra_help else flags.config_name or "train"
    if name is not None:
        check_config_name(name, directory)
    with initialize_config_dir(str(directory), job_name="train", version_base="1.3"), composition_errors():
        parsed = parse(flags.overrides)
        check_groups(parsed)
        overrides = with_search_path(parsed, flags.config_dir, directory / f"{name}.yaml")
        swept = [override for override in parsed if override.is_sweep_override()]
        config = compose(overrides, hydra=True, name=name, multirun=flags.multirun or bool(swept))
        multirun = flags.multirun or config.hydra.mode == RunMode.MULTIRUN  # a search space may set it
        if swept and not multirun:
            key, _, value = str(swept[0].input_line).partition("=")
            advice = "" if options(key) else f"\n{quoted_advice(key, value)}"
            raise UserError(f"{key}={value}: several values need --multirun; a list is written key=[a,b]{advice}")
        if flags.help or flags.hydra_help or flags.cfg or flags.info:
            return None
        if not multirun:
            return check_run(config)
        check_sweep(config)
        return None


def resolve(cfg: DictConfig) -> DictConfig:
    """Returns the config that a process trains with; of a resumed run, the one that it saved.

    Validates the jobs of a sweep: where there are many, `check_command` validates only some of them.
    """
    mask_handlers(logging.getLogger())
    cfg = resumed_config(cfg)
    make_absolute(cfg, HydraConfig.get().runtime.cwd)  # which `hydra.job.chdir` has left
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        validate(cfg)
    return cfg


def check_run(config: DictConfig) -> DictConfig:
    """Checks the config of a single run, composed with its `hydra` node, and the run's directory.

    Returns:
        The config that the run trains with.
    """
    job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    exists = job.resume or job.attach
    is_saved = exists and job.resume != "auto"
    overrides = raw_overrides(job.changes if is_saved else config.hydra.overrides.task)
    run = resumed_config(job)
    check_overrides(overrides, run)
    validate(run)
    directory = Path(resolve_hydra(config, "hydra.run.dir"))
    recorder = Recorder(directory)
    if not exists and global_rank() == 0:
        recorder.check_new()
    if recorder.is_finished(job):
        _check_same(recorder, run)
    _check_directories(directory, run.paths.log_dir)
    return run


def check_sweep(config: DictConfig) -> None:
    """Checks the config of a sweep and of its jobs, before the first job is trained. See `check_run`."""
    validate_sweep(config)
    _check_directories(Path(resolve_hydra(config, "hydra.sweep.dir")), config.paths.log_dir)


def _check_same(ended: Recorder, config: DictConfig) -> None:
    """Refuses to take a run that has ended for the run of another config."""
    check_fixed(ended.saved, config)
    if ended.status == "completed" and not ended.is_trained(config):
        raise UserError(f"{ended.dir} has completed: resume={quote(str(ended.dir))} trains it for longer")


def _config_directory(flags: Namespace) -> Path:
    """Returns the folder of primary configs: `--config-path` is relative to `src/train.py`."""
    directory = Path(os.path.abspath(ROOT / "src" / flags.config_path)) if flags.config_path else CONFIGS
    for flag, folder in (("--config-path", directory), ("--config-dir", Path(flags.config_dir or "."))):
        if not folder.is_dir():
            raise UserError(f"{flag}: {folder} is no folder")
    return directory


def _check_directories(run_dir: Path, log_dir: str) -> None:
    """Refuses directories that cannot be created or written to, or that no config can hold; creates nothing."""
    for directory in (run_dir, Path(log_dir)):
        check_name(directory)
        nearest = next(path for path in (directory, *directory.absolute().parents) if os.path.lexists(path))
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            why = "cannot be written to" if nearest.is_dir() else "is no folder"
            raise UserError(f"{directory}: {nearest} {why}; choose another paths.log_dir")
    link = Path(log_dir, "latest")
    if link.exists() and not link.is_symlink():
        raise UserError(
            f"{link} is no link to the latest run, and lab would put one there: move it,"
            " or choose another paths.log_dir"
        )
