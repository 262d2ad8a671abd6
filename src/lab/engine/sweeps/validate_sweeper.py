"""What stands under `hydra.sweeper`, held against what a sweeper takes."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.checks.arguments import check_node
from lab.engine.config.checks.limits import CHOICES, PATTERNS, check_limits
from lab.engine.config.checks.values import misfit, plain
from lab.engine.config.compose import get
from lab.engine.sweeps.constraints import COSTS, Constraint, parse_constraints
from lab.engine.sweeps.space import Space
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

# By name: what each takes. Its range stands in `lab.engine.config.checks.limits`.
GRID: dict[str, Any] = {"max_batch_size": int | None}
OPTUNA: dict[str, Any] = {
    "n_trials": int,
    "timeout": float | None,
    "max_failure_rate": float,
    "n_jobs": int | None,
    "seed": int,
    "seeds": list[int] | None,
    "storage": str | None,
}
NEEDS = {"CmaEsSampler": "cmaes", "GPSampler": "scipy", "WilcoxonPruner": "scipy"}
INSTALL = "pip install -e .[optuna]"


def is_optuna(sweeper: DictConfig) -> bool:
    """Whether values are drawn, and not enumerated."""
    return str(sweeper.get("_target_")).endswith(".OptunaSweeper")


def read_space(sweeper: DictConfig, words: list[str]) -> Space:
    """What the words of a command line and `hydra.sweeper` make a sweep vary.

    Raises:
        UserError: when it is empty, wrong, or not for this sweeper.
    """
    params, when = (plain(sweeper.get(name)) or {} for name in ("params", "when"))
    for name, node in (("params", params), ("when", when)):
        if not isinstance(node, dict):
            raise UserError(f"hydra.sweeper.{name}={node}: expected keys and their values")
    space = Space.parse(words, params, when)
    if is_optuna(sweeper):
        if not space.parameters:
            raise UserError("nothing to draw: give values, such as 'optimizer.lr=tag(log,interval(1e-4,1e-1))'")
        return space
    for parameter in space.parameters.values():
        if parameter.is_interval:
            raise UserError(f"{parameter.key}={parameter.text}: interval needs hydra/sweeper=optuna")
    for name in map(str, sweeper):
        if name in [*OPTUNA, "when", "constraints", "objectives", "sampler", "pruner"]:
            raise UserError(f"hydra.sweeper.{name} needs hydra/sweeper=optuna")
    _check_kinds(sweeper, GRID)
    return space


def check_optuna(sweeper: DictConfig, space: Space) -> list[Constraint]:
    """Holds the settings of the Optuna sweeper against what it takes.

    Returns:
        Its constraints, whose keys the jobs' configs must have.

    Raises:
        UserError: on the first that is wrong.
    """
    if not machine.has_package("optuna"):
        raise UserError(f"hydra/sweeper=optuna needs Optuna: {INSTALL}")
    _check_kinds(sweeper, OPTUNA)
    objectives = plain(sweeper.get("objectives"))
    _check_objectives(objectives)
    for group in ("sampler", "pruner"):
        _check_part(group, sweeper.get(group), len(objectives or [0]), space)
    return parse_constraints(plain(sweeper.get("constraints")) or [])


def _check_kinds(sweeper: DictConfig, kinds: dict[str, Any]) -> None:
    for name, kind in kinds.items():
        key, value = f"hydra.sweeper.{name}", plain(get(sweeper, name))
        if (expected := misfit(value, kind)) is not None:
            raise UserError(f"{key}={value}: expected {expected}")
        check_limits(key, value)


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
        elif not re.fullmatch(PATTERNS["objective.metric"][0], str(metric)):
            raise UserError(f"{key}.{metric}: expected {PATTERNS['objective.metric'][1]}, or one of {', '.join(COSTS)}")
        modes = CHOICES["objective.mode"]
        if mode not in modes:
            raise UserError(f"{key}.{metric}={mode}: no such choice{nearest(str(mode), modes)}\nchoices: min, max")


def _check_part(group: str, node: Any, num_objectives: int, space: Space) -> None:
    """Holds the sampler, or the pruner, against the signature of its class, and against what it is to do."""
    key = f"hydra.sweeper.{group}"
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UserError(f"{key}={node}: a choice is made with slashes: hydra/sweeper/{group}={node}")
    name = str(node._target_).rpartition(".")[2]
    if not str(node._target_).startswith(f"optuna.{group}s."):
        raise UserError(f"{key}._target_={node._target_}: expected a class of optuna.{group}s")
    package = NEEDS.get(name)
    if package and not machine.has_package(package):
        raise UserError(f"{key}: {name} needs {package}: {INSTALL}")
    arguments = dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]
    if name == "GridSampler":
        space.grid()
        arguments["search_space"] = {}
    check_node(key, {str(k): v for k, v in arguments.items()})
    if num_objectives > 1 and name == "CmaEsSampler":
        raise UserError("hydra/sweeper/sampler=cmaes follows one objective: use nsga2, tpe or gp for several")
    if num_objectives > 1 and group == "pruner" and name != "NopPruner":
        raise UserError(f"{name} follows one objective, and this sweep has several: hydra/sweeper/pruner=none")
