"""Resumes a run in its own directory, with the config that it saved: `python src/train.py resume=latest`.

Later edits of `configs/` have no effect. The command line may change how long the run trains, its callbacks and
loggers, but not what decides its result.
"""

import logging
import math
from datetime import timedelta
from pathlib import Path
from shlex import quote
from typing import Any

from omegaconf import DictConfig, open_dict

from lab.engine.config.changes import merge_changes
from lab.engine.config.compose import get
from lab.engine.config.identity import LENGTHS, check_fixed, training_limits
from lab.engine.config.overrides import raw_overrides
from lab.engine.config.security import authorize
from lab.engine.runs.recorder import Recorder
from lab.engine.runs.run import FINISHED, Run
from lab.engine.utils.errors import UserError
from lab.engine.utils.formats import check_format
from lab.engine.utils.processes import global_rank
from lab.engine.utils.redaction import command_line

log = logging.getLogger(__name__)

LOCK_TIMEOUT = 600  # seconds that a job waits for a process that a killed sweep left in its directory


def resumed_config(cfg: DictConfig) -> DictConfig:
    """Returns the config that a process trains with: `cfg`, or the saved config of the run that `cfg` resumes.

    In the returned config `resume` is the run's directory where it continues from a checkpoint, `auto` where the run
    is finished and nothing is left to do, and null otherwise.

    Args:
        cfg: as composed. Its `attach` or `resume` is a run's directory; or `resume` is `auto`, to resume the run in
            `paths.run_dir` if there is one.

    Raises:
        UserError: when the run cannot be resumed, or would be another run.
    """
    if cfg.attach:
        config = _attached(cfg, Path(cfg.attach))
    elif cfg.resume != "auto":
        config = _resumed(cfg, Run(Path(cfg.resume))) if cfg.resume else cfg
    else:
        directory = get(cfg, "paths.run_dir")  # None before Hydra has made it
        run = Run(Path(directory or "."))
        begun = directory is not None and run.metadata and (run.dir / ".hydra" / "config.yaml").is_file()
        config = _restarted(run, cfg) if begun else _with(cfg, resume=None)
    if cfg.attach or config.resume not in (None, "auto"):
        authorize(config, trusted=command_line())  # a saved config is untrusted; a composed one is checked already
    return config


def _resumed(cfg: DictConfig, run: Run) -> DictConfig:
    """Returns the config of `resume=DIR`: the saved one, with the overrides of the command line."""
    metadata = run.metadata
    check_format(metadata, run.dir / "run.json")
    if run.status == "pruned":
        raise UserError(
            f"resume={run.dir}: its sweep has ended this run, after validation {metadata['pruned']}\n"
            "to train it to its end begin a new one, with its overrides"
        )
    if global_rank() == 0:  # fails early; while the run trains, its recorder holds the lock
        with Recorder(run.dir).locked():
            pass
        if run.newest_checkpoint() is None:
            raise UserError(
                f"{run.dir} has no checkpoint to go on from\nit stopped before the first one was written, or was told"
                " to keep none: begin a new run, without resume="
            )
    changes, before = raw_overrides(cfg.changes), run.saved
    after = merge_changes(before, changes, run.choices) if changes else before
    check_fixed(before, after)
    if not after.fit:
        raise UserError(f"fit=false leaves nothing to go on with: python scripts/evaluate.py run={quote(str(run.dir))}")
    if run.status == "completed":
        _check_longer(run, before, after)
    return _with(_add_new_keys(after, cfg), resume=str(run.dir), run_dir=str(run.dir), changes=changes)


def _attached(cfg: DictConfig, directory: Path) -> DictConfig:
    """Returns the config of `attach=DIR`: the one that another process saved there for this process."""
    run = Run(directory)
    saved = _add_new_keys(run.saved, cfg)
    if global_rank() == 0:
        return _with(_restarted(run, saved), attach=str(directory), run_dir=str(directory))
    resume = str(directory) if run.metadata.get("resumed") else None
    return _with(saved, attach=str(directory), resume=resume, run_dir=str(directory))


def _restarted(run: Run, cfg: DictConfig) -> DictConfig:
    """Returns the config of a job that started before: its saved one, or `cfg` if it has no checkpoint yet."""
    if run.metadata:
        check_format(run.metadata, run.dir / "run.json")
        if global_rank() == 0:
            _await_lock(run)
    if run.status in FINISHED:
        return _with(cfg, resume="auto")
    if not any(run.dir.glob("checkpoints/*.ckpt")):
        return _with(cfg, resume=None)
    return _with(_add_new_keys(run.saved, cfg), resume=str(run.dir), run_dir=str(run.dir))


def _await_lock(run: Run) -> None:
    """Waits for a process that still trains here, such as one that a killed sweep left behind.

    Raises:
        UserError: when it does not end in time.
    """
    try:
        with Recorder(run.dir).locked():
            return
    except UserError as error:
        log.info("%s; waiting for it, at most %d s", str(error).rpartition(":")[0], LOCK_TIMEOUT)
    with Recorder(run.dir).locked(timeout=LOCK_TIMEOUT):
        pass


def _with(cfg: DictConfig, run_dir: str | None = None, **values: Any) -> DictConfig:
    """Returns a copy of `cfg` with other values."""
    config = cfg.copy()
    with open_dict(config):
        config.update(values)
        if run_dir is not None:
            config.paths.run_dir = run_dir
    return config


def _add_new_keys(saved: DictConfig, cfg: DictConfig) -> DictConfig:
    """Adds the top-level keys of `cfg` that did not exist when `saved` was saved."""
    for key in cfg:
        if key not in saved:
            saved[key] = cfg[key]
    return saved


def _check_longer(run: Run, before: DictConfig, after: DictConfig) -> None:
    """Refuses to resume a completed run unless the overrides make it train for longer."""
    old, new = training_limits(before), training_limits(after)
    growth = [_limit(new[key]) - _limit(old[key]) for key in LENGTHS if new[key] != old[key]]
    if min(growth, default=0.0) >= 0 and new != old:
        return
    raise UserError(
        f"resume={run.dir}: this run has completed (trainer.max_epochs={get(before, 'trainer.max_epochs')})\n"
        "to train for longer give trainer.max_epochs=…, to test again:"
        f" python scripts/evaluate.py run={quote(str(run.dir))}"
    )


def _limit(value: Any) -> float:
    """Returns a limit of epochs or steps, or of time in seconds; infinity where there is none."""
    if value is None or value == -1:
        return math.inf
    if isinstance(value, dict):
        return timedelta(**value).total_seconds()
    if isinstance(value, str):
        days, hours, minutes, seconds = map(int, value.split(":"))
        return timedelta(days, seconds, hours=hours, minutes=minutes).total_seconds()
    return float(value)
