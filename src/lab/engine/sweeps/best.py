"""Finds the winner of a sweep, and saves its config as an experiment file."""

import logging
import os
from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from pathlib import Path
from shlex import quote
from statistics import fmean, mean
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.compose import compose, options
from lab.engine.config.drawn import is_drawn
from lab.engine.config.identity import ABSENT, PLACE, differences, group_key
from lab.engine.config.overrides import command_word, to_override
from lab.engine.config.security import ADDRESS
from lab.engine.config.tree import is_under
from lab.engine.runs.ranking import Standing, finite_values, one_per_seed, standing
from lab.engine.runs.run import Run
from lab.engine.sweeps.constraints import find_broken
from lab.engine.sweeps.sweep import Objective, Sweep
from lab.engine.utils.escape import printable
from lab.engine.utils.files import atomic_write, read_record
from lab.engine.utils.paths import CONFIGS

log = logging.getLogger(__name__)


def write_best(sweep: Sweep) -> Path | None:
    """Writes `best.yaml`, and logs which jobs won, by how much, and the command that trains the winner.

    Returns:
        The file; None where there is no winner.
    """
    if not sweep.objectives:
        log.info("no winner: the model's config names no objective")
        return None
    objective = sweep.objectives[0]
    ranked = rank(sweep, objective)
    if not ranked:
        kept = " and ".join(constraint.text for constraint in sweep.constraints)
        log.info("no winner: no job has come to its end%s", f" and keeps to {kept}" if kept else "")
        return None
    best = ranked[0]
    score, jobs = score_of(best, objective), ", ".join(run.dir.name for run in best)
    result = f"{objective.metric} {score:.4f}" + (f", the mean of {len(best)} seeds" if len(best) > 1 else "")
    path = sweep.dir / "best.yaml"
    name = os.path.relpath(path.with_suffix(""), CONFIGS / "experiment")
    command = f"python src/train.py {command_word('experiment', name)}"
    header = _header(sweep, best, objective, f"{result} (job {jobs})", command)
    content = OmegaConf.create(_defaults(best[0]))
    _save(path, header, content)
    # The values that the choices do not set; the seed is left out if the result is a mean over several
    own = (*PLACE, "test") if len(best) == 1 else (*PLACE, "test", "seed")
    for key, value in _differing(name, best[0], own):
        # A key cannot be deleted here, but null has the same effect
        OmegaConf.update(content, key, None if value is ABSENT else value, force_add=True)
    _save(path, header, content)
    left = [key for key, value in _differing(name, best[0], own) if value is not ABSENT]
    if left:
        log.warning("%s makes another config than the winner's: %s differ", path, ", ".join(left[:5]))
    log.info("best: job %s, %s", jobs, result)
    if len(ranked) > 1:
        log.info("next: job %s, %.4f", ", ".join(run.dir.name for run in ranked[1]), score_of(ranked[1], objective))
    log.info("train it: %s", command)
    if not best[0].saved.test:
        for run in best:
            log.info("test it: python scripts/evaluate.py run=%s", quote(str(run.dir)))
    return path


def rank(sweep: Sweep, objective: Objective) -> list[list[Run]]:
    """Ranks the candidates of a sweep, the best first.

    Jobs that differ in their seed alone are one candidate; `lab.engine.runs.ranking` says which cannot win. Of several
    objectives the first decides.
    """
    groups: dict[str, list[Run]] = {}
    for run in sweep.jobs.values():
        if (config := run.dir / ".hydra" / "config.yaml").is_file():
            groups.setdefault(group_key(read_record(config, {})), []).append(run)
    chosen, constraints = [one_per_seed(runs) for runs in groups.values()], sweep.constraints
    seeds = max(map(len, chosen), default=0)
    broken = [any(find_broken(constraints, run) for run in runs) for runs in groups.values()]
    candidates = [
        runs
        for runs, breaks in zip(chosen, broken, strict=True)
        if standing(runs, objective.metric, seeds, breaks) == Standing.CANDIDATE
    ]
    return sorted(candidates, key=lambda runs: objective.sign * score_of(runs, objective))


def score_of(runs: Sequence[Run], objective: Objective) -> float:
    """Returns the mean of an objective over `runs`."""
    return fmean(finite_values(runs, objective.metric))


def _header(sweep: Sweep, best: Sequence[Run], objective: Objective, result: str, command: str) -> list[str]:
    """Returns the header of the file, from which `scripts/reproduce.py` reads the expected metric and the seeds."""
    relation, rounding = ("<=", ROUND_CEILING) if objective.mode == "min" else (">=", ROUND_FLOOR)
    # Rounded so that the winner itself meets the bound
    bound = Context(prec=4, rounding=rounding).create_decimal(mean(finite_values(best, objective.metric)))
    seconds = finite_values(best, "cost/seconds")
    return [
        "# @package _global_",
        f"# The best of {len(sweep.jobs)} jobs of {sweep.dir.name}: {result}",
        f"# command:  {command}",
        f"# source:   the sweep {sweep.dir.name}, which chose it by {objective.metric} of these seeds",
        f"# expected: {objective.metric} {relation} {bound}",
        *([f"# time:     {mean(seconds):.0f} s of training"] if seconds else []),
        f"# seeds:    {[run.seed for run in best]}",
    ]


def _defaults(run: Run) -> dict[str, Any]:
    """Returns the defaults list of a run's choices, without those that are the default of every run."""
    usual = compose([], hydra=True).hydra.runtime.choices
    made = run.choices
    groups = [group for group in made if options(group) and group not in (*PLACE, "experiment", "debug")]
    chosen = {f"override /{group}": made[group] for group in groups if made[group] != usual.get(group)}
    return {"defaults": [{group: choice} for group, choice in chosen.items()]} if chosen else {}


def _differing(name: str, run: Run, own: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yields every key at which the config of the experiment `name` differs from the run's, with the run's value.

    A logger's address is left out: the command line gave it, and no file may.
    """
    now: Any = OmegaConf.to_container(compose([f"experiment={to_override(name)}"]), resolve=False)
    then: Any = OmegaConf.to_container(run.saved, resolve=False)
    found = differences(now, then)
    return (
        (key, value)
        for key, new, value in found
        if not (is_under(key, own) or is_drawn(new) or (is_under(key, ["logger"]) and ADDRESS.search(str(value))))
    )


def _save(path: Path, header: list[str], content: DictConfig) -> None:
    with atomic_write(path) as partial:
        partial.write_text("\n".join([*(printable(line, keep="") for line in header), OmegaConf.to_yaml(content)]))
