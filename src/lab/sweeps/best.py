"""The winner of a sweep, kept as an experiment file."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from omegaconf import OmegaConf

from lab.again import ABSENT, differences
from lab.compose import CONFIGS, compose, options, parse
from lab.runs import Run
from lab.sweeps.constraints import broken
from lab.sweeps.sweep import Objective, Sweep
from lab.whole import whole

log = logging.getLogger(__name__)

OWN = ("paths", "sweep", "hydra", "resume")  # what a config says of where it runs


def write_best(sweep: Sweep) -> Path | None:
    """Writes `best.yaml`, and tells which jobs won, by how much, and the command that trains the winner.

    Jobs that differ in their seed alone are one candidate, which is as good as they are on average. Of several
    objectives the first decides.

    Returns:
        The file; None where no job came to an end with a figure.
    """
    objective = sweep.objectives[0]
    ranked = rank(sweep, objective)
    if not ranked:
        if sweep.constraints:
            log.info("no job keeps to %s: no winner", " and ".join(c.text for c in sweep.constraints))
        return None
    best = ranked[0]
    score, jobs = score_of(best, objective), ", ".join(run.dir.name for run in best)
    told = f"{objective.metric} {score:.4f}" + (f", the mean of {len(best)} seeds" if len(best) > 1 else "")
    path = sweep.dir / "best.yaml"
    name = os.path.relpath(path.with_suffix(""), CONFIGS / "experiment")
    command = f"python src/train.py experiment={name}"
    header = [
        "# @package _global_",
        f"# The best of {sum(map(len, ranked))} jobs of {sweep.dir.name}: {told} (job {jobs})",
        f"# command:  {command}",
        f"# expected: {objective.metric} {'<=' if objective.mode == 'min' else '>='} {score:.4g}",
    ]
    content = _defaults(best[0])
    _save(path, header, content)
    # What the choices from groups do not make; a seed is no part of what several of them have shown
    drop = OWN if len(best) == 1 else (*OWN, "seed")
    for key, value in _lacking(f"experiment={name}", best[0]):
        if key.split(".")[0] not in drop:
            _put(content, key, value)
    _save(path, header, content)
    log.info("best: job %s, %s", jobs, told)
    if len(ranked) > 1:
        log.info("next: job %s, %.4f", ", ".join(run.dir.name for run in ranked[1]), score_of(ranked[1], objective))
    log.info("train it: %s", command)
    return path


def rank(sweep: Sweep, objective: Objective) -> list[list[Run]]:
    """The finished jobs, those that differ in their seed alone together, the best first.

    Those that break a constraint of the sweep are left out.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in sweep.jobs.values():
        if run.status == "completed" and math.isfinite(run.metrics.get(objective.metric, math.nan)):
            groups.setdefault(tuple(word for word in run.overrides if not word.startswith("seed=")), []).append(run)
    fitting = [runs for runs in groups.values() if not any(broken(sweep.constraints, run) for run in runs)]
    return sorted(fitting, key=lambda runs: objective.sign * score_of(runs, objective))


def score_of(runs: Sequence[Run], objective: Objective) -> float:
    """The mean of an objective."""
    return fmean(run.metrics[objective.metric] for run in runs)


def _defaults(run: Run) -> dict[str, Any]:
    """The choices from groups that a run was given, as an experiment file has them."""
    chosen = [(o.key_or_group, o.value()) for o in parse(run.overrides) if options(o.key_or_group)]
    deltas = [f"/{group}/{choice}" for group, choice in chosen if group in ("experiment", "debug")]
    groups = [
        {f"override /{group}": choice}
        for group, choice in chosen
        if group not in ("experiment", "debug", "sweep") and choice is not None
    ]
    return {"defaults": [*deltas, *groups]} if chosen else {}


def _lacking(word: str, run: Run) -> Iterator[tuple[str, Any]]:
    """Every value of a run's config that the override `word` does not make."""
    now: Any = OmegaConf.to_container(compose([word]), resolve=False)
    then: Any = OmegaConf.to_container(run.saved, resolve=False)
    return ((key, value) for key, _, value in differences(now, then) if value is not ABSENT)


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    *above, name = key.split(".")
    for part in above:
        content = content.setdefault(part, {})
    content[name] = value


def _save(path: Path, header: list[str], content: dict[str, Any]) -> None:
    with whole(path) as partial:
        partial.write_text("\n".join([*header, yaml.safe_dump(content, sort_keys=False)]))
