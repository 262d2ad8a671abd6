"""Going on with a run: `python src/train.py resume=latest`, in its own directory, with the config that it saved.

Whatever the files in `configs/` say by now, the command line may change how long it trains and what watches over it,
never what is trained on what.
"""

import logging
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lab.engine.config.changes import merge_changes
from lab.engine.config.compose import get
from lab.engine.config.identity import LENGTHS, check_fixed
from lab.engine.config.overrides import raw_overrides
from lab.engine.config.security import authorize
from lab.engine.runs.recorder import Recorder
from lab.engine.runs.run import FINISHED, Run
from lab.engine.utils.errors import UserError
from lab.engine.utils.formats import check_format
from lab.engine.utils.processes import global_rank
from lab.engine.utils.redaction import command_line

log = logging.getLogger(__name__)

PATIENCE = 600  # seconds that a job waits for a process that a sweep has left behind in its directory


def resumed_config(cfg: DictConfig) -> DictConfig:
    """Returns the config that a process trains with: `cfg`, or what the run saved that `cfg` goes on with.

    In what is returned `resume` is the run's directory where it goes on from a checkpoint, `auto` where the run is
    finished and nothing is left to do, and else null.

    Args:
        cfg: as composed. Its `attach` or `resume` is a run's directory; or `resume` is `auto`: go on with the run that
            the directory holds, begin where it holds none.

    Raises:
        UserError: when the run cannot go on, or would be another one.
    """
    if cfg.attach:
        made = _attached(cfg, Path(cfg.attach))
    elif cfg.resume != "auto":
        made = _resumed(cfg, Run(Path(cfg.resume))) if cfg.resume else cfg
    else:
        directory = get(cfg, "paths.run_dir")  # None before Hydra has made it
        run = Run(Path(directory or "."))
        begun = directory is not None and run.record and (run.dir / ".hydra" / "config.yaml").is_file()
        made = _begun(run, cfg) if begun else _with(cfg, resume=None)
    if cfg.attach or made.resume not in (None, "auto"):
        authorize(
            made, trusted=command_line()
        )  # what a run has saved is data; the rest was judged when it was composed
    return made


def limits(cfg: DictConfig) -> dict[str, Any]:
    """Returns what says when training is over, as plain values."""
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    watching = (raw.get("callbacks") or {}).get("early_stopping")
    return {key: raw["trainer"].get(key) for key in LENGTHS} | {"early_stopping": watching}


def _resumed(cfg: DictConfig, run: Run) -> DictConfig:
    """What a user goes on with: the saved config and what is given anew."""
    record = run.record
    check_format(record, run.dir / "run.json")
    if run.status == "pruned":
        raise UserError(
            f"resume={run.dir}: its sweep has ended this run, after validation {record['pruned']}\n"
            "to train it to its end begin a new one, with its overrides"
        )
    if global_rank() == 0:  # told before anything is loaded; once it is at work it holds the directory itself
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
        raise UserError(f"fit=false leaves nothing to go on with: python scripts/evaluate.py run={run.dir}")
    if run.status == "completed":
        _check_longer(run, before, after)
    return _with(_completed(after, cfg), resume=str(run.dir), run_dir=str(run.dir), changes=changes)


def _attached(cfg: DictConfig, directory: Path) -> DictConfig:
    """What the process that made the directory has saved there for this one."""
    run = Run(directory)
    saved = _completed(run.saved, cfg)
    if global_rank() == 0:
        return _with(_begun(run, saved), attach=str(directory), run_dir=str(directory))
    goes_on = str(directory) if run.record.get("resumed") else None
    return _with(saved, attach=str(directory), resume=goes_on, run_dir=str(directory))


def _begun(run: Run, cfg: DictConfig) -> DictConfig:
    """What a job that was begun before goes on with: its saved config, or `cfg` where it has no checkpoint yet."""
    if run.record:
        check_format(run.record, run.dir / "run.json")
        if global_rank() == 0:
            _await_free(run)
    if run.status in FINISHED:
        return _with(cfg, resume="auto")
    if not any(run.dir.glob("checkpoints/*.ckpt")):
        return _with(cfg, resume=None)
    return _with(_completed(run.saved, cfg), resume=str(run.dir), run_dir=str(run.dir))


def _await_free(run: Run) -> None:
    """Waits for a process that trains here still, such as one that a sweep which was killed has left behind.

    Raises:
        UserError: when it does not leave.
    """
    try:
        with Recorder(run.dir).locked():
            return
    except UserError as error:
        log.info("%s; waiting for it, at most %d s", str(error).rpartition(":")[0], PATIENCE)
    with Recorder(run.dir).locked(timeout=PATIENCE):
        pass


def _with(cfg: DictConfig, run_dir: str | None = None, **values: Any) -> DictConfig:
    made = cfg.copy()
    with open_dict(made):
        for key, value in values.items():
            made[key] = value
        if run_dir is not None:
            made.paths.run_dir = run_dir
    return made


def _completed(saved: DictConfig, cfg: DictConfig) -> DictConfig:
    """A saved config with the settings at the root that are younger than it, which the code reads."""
    for key in cfg:
        if key not in saved:
            saved[key] = cfg[key]
    return saved


def _check_longer(run: Run, before: DictConfig, after: DictConfig) -> None:
    """A run that has come to its end goes on only where it is told to train for longer."""
    was, now = limits(before), limits(after)
    grown = [_number(now[key]) - _number(was[key]) for key in LENGTHS if now[key] != was[key]]
    if min(grown, default=0.0) >= 0 and now != was:
        return
    raise UserError(
        f"resume={run.dir}: this run has completed (trainer.max_epochs={before.trainer.max_epochs})\n"
        f"to train for longer give trainer.max_epochs=…, to test again: python scripts/evaluate.py run={run.dir}"
    )


def _number(limit: Any) -> float:
    """A limit of epochs or steps, or of time in seconds; infinite where there is none."""
    if limit is None or limit == -1:
        return math.inf
    if isinstance(limit, dict):
        return timedelta(**limit).total_seconds()
    if isinstance(limit, str):
        days, hours, minutes, seconds = map(int, limit.split(":"))
        return timedelta(days, seconds, hours=hours, minutes=minutes).total_seconds()
    return float(limit)
