"""Going on with a run: `python src/train.py resume=latest`, in its own directory, with its own config.

What the run saved is what it goes on with, whatever the files in `configs/` say by now; the command line may change how
long it trains and what watches over it, never what is trained on what.
"""

import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lab.engine.checkpointing.files import find_fault
from lab.engine.config.compose import compose, get, leaves, options
from lab.engine.config.identity import ABSENT, differences
from lab.engine.config.overrides import log_dir, override_value
from lab.engine.runs.recorder import Record
from lab.engine.runs.run import FINISHED, Run
from lab.engine.sweeps.sweep import is_job
from lab.engine.utils.errors import UserError
from lab.engine.utils.redaction import redact

log = logging.getLogger(__name__)

# What a run is; everything else of its config says how long, where, and under whose eyes
FIXED = ["data", "model", "optimizer", "scheduler", "objective", "dims", "seed", "callbacks.ema"]
FIXED += [f"trainer.{key}" for key in ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")]
FIXED += [f"trainer.{key}" for key in ("precision", "limit_train_batches", "overfit_batches", "fast_dev_run")]
FREE = ["data.num_workers", "data.eval_batch_size"]
LENGTHS = ["max_epochs", "max_steps", "max_time"]


@contextmanager
def resumed() -> Iterator[None]:
    """Leads Hydra into the directory of the run that `resume=` names, with the overrides that it began with.

    A job that Slurm starts again goes on with the run that it had begun.

    Raises:
        UserError: when there is no such run, or it cannot go on.
    """
    words = [word.lstrip("+") if word.lstrip("+").startswith("resume=") else word for word in sys.argv[1:]]
    given = [override_value(word) for word in words if word.startswith("resume=")]
    asked = _interrupted_by_slurm(words) or (given[-1] if given and given[-1] not in ("", "null") else None)
    if asked is None:
        yield
        return
    if {"-m", "--multirun"} & set(words):
        raise UserError(f"resume={asked} goes on with one run: leave out -m")
    if flags := [word for word in words if word.startswith("-")]:
        raise UserError(f"resume={asked} takes no flags: leave out {flags[0]}")
    run = Run.open(asked, log_dir(words), argument="resume")
    if is_first():  # told before anything is loaded
        elsewhere = [word for word in words if word.startswith("hydra.run.dir=")]
        if elsewhere and Path(override_value(elsewhere[-1])).resolve() != run.dir:
            raise UserError(f"resume={asked} goes on in the directory of the run: leave out hydra.run.dir")
        Record(run.dir).check_free()
        newest(run)
    rest = [word for word in words if not word.startswith("resume=")]
    # A group that is chosen anew comes with values of its own
    again = {word.lstrip("+~").partition("=")[0] for word in rest}
    groups = tuple(f"{key}." for key in again if options(key))
    kept = [
        w
        for w in run.overrides
        if (key := w.lstrip("+~").partition("=")[0]) not in again and not key.startswith(groups)
    ]
    sys.argv[1:] = [*kept, *rest, f"resume='{run.dir}'"]
    if is_first():  # the others are given a directory
        sys.argv += [f"hydra.run.dir='{run.dir}'", "hydra.output_subdir=null"]
    yield


def merge_resumed_config(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config that a run goes on with: what it saved, with what the command line gives anew.

    Args:
        cfg: as composed; its `resume` is a run directory, or null for a new run, whose config it is.
        overrides: of the command line.

    Raises:
        UserError: when they would change what is trained, or the run has come to its end.
    """
    if cfg.attach:
        return _attached(Run(Path(cfg.attach)))
    directory = Path(cfg.resume) if cfg.resume else _begun_job(cfg)
    if directory is None:
        return cfg
    run = Run(directory)
    if run.status == "pruned":
        again = " ".join(run.overrides)
        raise UserError(
            f"resume={directory}: its sweep has ended this run, after validation {run.record['pruned']}\n"
            f"to train it to its end begin a new one: python src/train.py {again}"
        )
    before = run.saved
    changed = [word for word in overrides if word not in run.overrides and not word.startswith("resume=")]
    after = _merge(run, before, cfg) if changed else before
    _check_fixed(before, after)
    if not after.fit:
        raise UserError(f"fit=false leaves nothing to go on with: python scripts/evaluate.py run={run.dir}")
    if run.status == "completed":
        _check_longer(run, before, after)
    with open_dict(after):
        after.resume, after.paths.run_dir = str(run.dir), str(run.dir)
    return after


def _attached(run: Run) -> DictConfig:
    """The config of a run that this process takes part in; rank 0 has said by now whether it goes on."""
    config = run.config
    with open_dict(config):
        config.resume = str(run.dir) if run.record.get("resumed") else None
    return config


def _begun_job(cfg: DictConfig) -> Path | None:
    """The directory of a sweep's job that has a checkpoint and is not over: whoever starts the job, it goes on."""
    directory = get(cfg, "paths.run_dir")  # None before Hydra has made it
    if directory is None or not is_job(Path(directory)) or not is_first():
        return None
    job = Record(Path(directory))
    job.await_free()
    begun = job.status not in FINISHED and any((job.dir / "checkpoints").glob("*.ckpt"))
    return job.dir if begun else None


def newest(run: Run) -> Path:
    """The checkpoint to go on from: the last one, or where that is damaged the newest that is whole.

    Raises:
        UserError: when there is none.
    """
    folder = run.dir / "checkpoints"
    found = sorted(folder.glob("*.ckpt"), key=lambda path: (path.stem == "last", path.stat().st_mtime), reverse=True)
    faults: list[str] = []
    for path in found:
        fault = find_fault(path)
        if fault is None:
            for line in faults:
                log.warning("%s; going on from %s", line, path.name)
            return path
        faults.append(f"{path.name}: {fault}")
    why = "\n".join(faults) or "it stopped before the first one was written, or was told to keep none"
    again = " ".join(run.overrides)
    raise UserError(
        f"{run.dir} has no checkpoint to go on from\n{why}\nbegin anew: python src/train.py {again}".rstrip()
    )


def limits(cfg: DictConfig) -> dict[str, Any]:
    """What says when training is over, as plain values."""
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    watching = (raw.get("callbacks") or {}).get("early_stopping")
    return {key: raw["trainer"].get(key) for key in LENGTHS} | {"early_stopping": watching}


def _merge(run: Run, saved: DictConfig, cfg: DictConfig) -> DictConfig:
    """What was saved, but for the keys at which the composed config is not what the run's own overrides make today."""
    merged = OmegaConf.create(OmegaConf.to_container(saved, resolve=False))
    assert isinstance(merged, DictConfig)
    now, then = (OmegaConf.to_container(config, resolve=False) for config in (cfg, compose(run.overrides)))
    for key, new, _ in differences(now, then):  # type: ignore[arg-type]
        if key in ("resume", "paths.run_dir"):
            continue
        if new is ABSENT:
            above, _, name = key.rpartition(".")
            node = OmegaConf.select(merged, above) if above else merged
            if isinstance(node, DictConfig):
                node.pop(name, None)
        else:
            OmegaConf.update(merged, key, new, merge=False, force_add=True)
    return merged


def _check_fixed(before: DictConfig, after: DictConfig) -> None:
    was, now = (
        {key: value for key, value in leaves(config) if not isinstance(value, dict)} for config in (before, after)
    )
    for key in [*was, *now]:
        fixed = key not in FREE and any(f"{key}.".startswith(f"{name}.") for name in FIXED)
        if fixed and was.get(key) != now.get(key):
            raise UserError(
                f"{key} was {was.get(key)} in this run, and would be {now.get(key)}\n"
                "a resumed run keeps its model, data, optimizer, schedule and seed: leave it out,"
                " or begin a new run without resume="
            )


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


def _interrupted_by_slurm(words: Sequence[str]) -> str | None:
    """The run that this command was at when Slurm put the job back, which it now starts again.

    A job may hold several commands, and a run that was stopped before its first checkpoint begins anew. What this
    start of the job has begun is not taken up: another rank may have been faster.
    """
    restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if restart == 0 or {"-m", "--multirun"} & set(words):
        return None
    named = [Path(override_value(word)) for word in words if word.startswith("hydra.run.dir=")]
    found = sorted(Path(log_dir(words)).glob("runs/*/*/run.json"), reverse=True)
    for path in [*(folder / "run.json" for folder in named if (folder / "run.json").is_file()), *found]:
        record = json.loads(path.read_text())
        begun = [record, *record.get("resumed", [])][-1]
        if (
            begun.get("slurm_job") == os.environ.get("SLURM_JOB_ID")
            and begun.get("slurm_restart", 0) < restart
            and begun.get("argv") == redact(sys.orig_argv[1:])
            and record["status"] != "completed"
            and any(path.parent.glob("checkpoints/*.ckpt"))
        ):
            return str(path.parent)
    return None


def is_first() -> bool:
    """Whether this process is rank 0, before anything can be asked that knows."""
    if rank := os.environ.get("RANK"):
        return int(rank) == 0
    # Of a task of srun the former, of a process that Lightning starts in a job the latter
    return all(int(os.environ.get(name) or 0) == 0 for name in ("SLURM_PROCID", "LOCAL_RANK"))
