"""Checks a sweep's command line before the first job is trained and before a directory is made."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.compose import parse, search_path
from lab.engine.config.override_rules import check_groups, check_overrides
from lab.engine.config.schema_cache import cached_schema
from lab.engine.config.security import BUILT
from lab.engine.config.validate import check_nodes, nodes, resolved, validate
from lab.engine.sweeps.constraints import COSTS, check_constraints, parse_constraints
from lab.engine.sweeps.jobs import compose_jobs, named_job
from lab.engine.sweeps.resume import sweep_config
from lab.engine.sweeps.samplers import class_name
from lab.engine.sweeps.space import Space
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

NEEDS = {"CmaEsSampler": "cmaes", "GPSampler": "scipy", "WilcoxonPruner": "scipy"}
OPTUNA = "hydra_plugins.optuna_sweeper.OptunaSweeper"
SUBDIR = "${hydra:job.num}"
INSTALL = "pip install -e .[optuna]"


def validate_sweep(config: DictConfig) -> None:
    """Checks the config of a sweeper and of its jobs; of many jobs, of a sample.

    Args:
        config: as Hydra composed it for the sweep, its `hydra` node included.

    Raises:
        UserError: on the first thing that is wrong.
    """
    own = [str(key) for key in config if key != "hydra"]
    base = None if config.sweep.resume else OmegaConf.masked_copy(config, own)
    config, overrides = sweep_config(config)
    sweeper, launcher = config.hydra.sweeper, config.hydra.launcher
    if str(launcher.get("_target_")).startswith("hydra_plugins."):
        check_nodes(nodes(launcher, "hydra.launcher"), BUILT)
    _check_directories(config)
    check_groups(parse(overrides))
    space = read_space(sweeper, [*search_path(config), *overrides])
    jobs: list[DictConfig] = []
    for job, words in compose_jobs(space, base):
        if not jobs and is_optuna(sweeper):
            check_search(sweeper, space, job.get("objective"))
        with named_job(space, words):
            if not jobs:
                check_overrides(words, job)
            validate(job)
        jobs.append(job)
    if is_optuna(sweeper):
        check_constraints(parse_constraints(_read(sweeper, "constraints") or []), jobs)


def is_optuna(sweeper: DictConfig) -> bool:
    """Tells whether the sweeper is Optuna's, which draws values instead of enumerating them."""
    return str(sweeper.get("_target_")).endswith(".OptunaSweeper")


def read_space(sweeper: DictConfig, overrides: list[str]) -> Space:
    """Parses the search space from the overrides of a command line and `hydra.sweeper`.

    Raises:
        UserError: when it is empty, wrong, or not for this sweeper.
    """
    drawing = is_optuna(sweeper)
    if drawing:
        _check_parts(sweeper)
    else:
        of_optuna = set((cached_schema(OPTUNA) or {"properties": {}})["properties"]) - {"params", "max_batch_size"}
        for name in of_optuna & set(map(str, sweeper)):
            raise UserError(f"hydra.sweeper.{name} needs hydra/sweeper=optuna")
    check_nodes(_nodes(sweeper), BUILT)
    space = Space.parse(overrides, _read(sweeper, "params"), _read(sweeper, "when"))
    if drawing and not space.parameters:
        raise UserError("nothing to draw: give values, such as 'optimizer.lr=tag(log,interval(1e-4,1e-1))'")
    for parameter in space.parameters.values():
        if parameter.is_interval and not drawing:
            raise UserError(f"{parameter.key}={parameter.text}: interval needs hydra/sweeper=optuna")
    return space


def check_search(sweeper: DictConfig, space: Space, objective: DictConfig | None) -> None:
    """Checks that the arguments of the Optuna sweeper fit together.

    Args:
        sweeper: its config.
        space: what is drawn.
        objective: of the model; None where it has none.

    Raises:
        UserError: on the first thing that is wrong.
    """
    objectives, seeds = _read(sweeper, "objectives"), _read(sweeper, "seeds")
    _check_objectives(objectives)
    metrics = list(objectives or ([objective.metric] if objective else []))
    if not metrics:
        raise UserError(
            "nothing to search for: give 'hydra.sweeper.objectives={METRIC: min}', or the model an objective"
        )
    if "test" in space.parameters or any(o.key_or_group == "test" and o.value() for o in parse(space.fixed)):
        raise UserError(
            "test=true: a search chooses by validation alone, and tests none of its jobs: leave it out; it ends with"
            " the command that tests its winner"
        )
    sampler = class_name(sweeper.sampler)
    if sampler == "GridSampler":
        space.grid()
    if len(metrics) > 1 and sampler == "CmaEsSampler":
        raise UserError("hydra/sweeper/sampler=cmaes follows one objective: use nsga2, tpe or gp for several")
    if seeds and "seed" in space.parameters:
        raise UserError("hydra.sweeper.seeds trains each trial with every seed: leave out seed=")
    check_pruner(_read(sweeper, "pruner"), seeds, metrics)


def check_pruner(pruner: Mapping[str, Any] | None, seeds: Sequence[int] | None, metrics: Sequence[str]) -> None:
    """Refuses a pruner that the sweep gives nothing to compare.

    Args:
        pruner: `hydra.sweeper.pruner`.
        seeds: `hydra.sweeper.seeds`.
        metrics: the sweep's objectives.

    Raises:
        UserError: with what to choose instead.
    """
    if seeds is not None and (len(set(seeds)) < len(seeds) or not seeds):
        raise UserError(f"hydra.sweeper.seeds={list(seeds)}: expected null, or seeds that differ, such as [0, 1, 2]")
    name, none = class_name(pruner, "NopPruner"), "hydra/sweeper/pruner=none"
    if name == "NopPruner":
        return
    if len(metrics) > 1:
        raise UserError(f"{name} follows one objective, and this sweep has {len(metrics)}: {none}")
    if metrics[0].startswith(("test/", "cost/")):
        raise UserError(f"{name}: {metrics[0]} is known when a run is over, and there is nothing to prune then: {none}")
    if pruner and name == "WilcoxonPruner":
        # A signed-rank test of n pairs gives 1 / 2^n at the least, and the last seed is trained after the last test
        p = pruner["p_threshold"]
        least = max(2, math.floor(-math.log2(p)) + 1) + 1 if p > 0 else math.inf
        if seeds is None or len(seeds) < least:
            raise UserError(
                f"{name} compares trials seed by seed: with p_threshold={p} give at least {least} of them, such as"
                " hydra.sweeper.seeds=[0,1,2,3,4,5]"
            )


def _read(sweeper: DictConfig, name: str) -> Any:
    return resolved(sweeper, name, f"hydra.sweeper.{name}") if name in sweeper else None


def _nodes(sweeper: DictConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the nodes of the sweeper, its sampler and its pruner; GridSampler gets its search space later."""
    for key, node in nodes(sweeper, "hydra.sweeper"):
        yield key, node | {"search_space": {}} if node["_target_"].endswith(".GridSampler") else node


def _check_directories(config: DictConfig) -> None:
    """Refuses a `hydra.sweep.subdir` other than the job's number, by which a sweep finds its jobs."""
    sweep: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    if sweep["subdir"] != SUBDIR:
        raise UserError(
            f"hydra.sweep.subdir={sweep['subdir']}: the directory of a job is its number: leave it out;"
            " hydra.sweep.dir says where the sweep is, and sweep.name is in the directory's name"
        )


def _check_objectives(objectives: Any) -> None:
    key = "hydra.sweeper.objectives"
    if objectives is None:
        return
    if not isinstance(objectives, dict) or not objectives:
        raise UserError(f"{key}={objectives}: expected metrics and their modes, such as {{val/acc: max}}")
    for metric, mode in objectives.items():
        if str(metric).startswith("cost/"):
            if metric not in COSTS:
                raise UserError(f"{key}.{metric}: no such figure{nearest(metric, COSTS)}")
        elif str(metric).startswith("test"):
            raise UserError(f"{key}.{metric}: expected a metric of validation, such as val/acc, or a cost: {COSTS}")
        if mode not in ("min", "max"):
            raise UserError(
                f"{key}.{metric}={mode}: no such choice{nearest(str(mode), ['min', 'max'])}\nchoices: min, max"
            )


def _check_parts(sweeper: DictConfig) -> None:
    """Refuses a sampler or a pruner that is not Optuna's, or that needs a package that is not installed."""
    if not machine.has_package("optuna"):
        raise UserError(f"hydra/sweeper=optuna needs Optuna: {INSTALL}")
    for group in ("sampler", "pruner"):
        key, node = f"hydra.sweeper.{group}", sweeper.get(group)
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise UserError(f"{key}={node}: a choice is made with slashes: hydra/sweeper/{group}={node}")
        if not str(node._target_).startswith(f"optuna.{group}s."):
            raise UserError(f"{key}._target_={node._target_}: expected a class of optuna.{group}s")
        package = NEEDS.get(class_name(node))
        if package and not machine.has_package(package):
            raise UserError(f"{key}: {class_name(node)} needs {package}: {INSTALL}")
