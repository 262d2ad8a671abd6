"""What stands under `hydra.sweeper`, held against what a sweeper takes."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from lab.engine.config.schema_cache import cached_schema
from lab.engine.config.security import BUILT
from lab.engine.config.validate import check_nodes, nodes, resolved
from lab.engine.sweeps.constraints import COSTS, Constraint, parse_constraints
from lab.engine.sweeps.space import Space
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

NEEDS = {"CmaEsSampler": "cmaes", "GPSampler": "scipy", "WilcoxonPruner": "scipy"}
OPTUNA = "hydra_plugins.optuna_sweeper.OptunaSweeper"
INSTALL = "pip install -e .[optuna]"


def is_optuna(sweeper: DictConfig) -> bool:
    """Whether values are drawn, and not enumerated."""
    return str(sweeper.get("_target_")).endswith(".OptunaSweeper")


def read_space(sweeper: DictConfig, words: list[str]) -> Space:
    """What the words of a command line and `hydra.sweeper` make a sweep vary.

    Raises:
        UserError: when it is empty, wrong, or not for this sweeper.
    """
    settings = set((cached_schema(OPTUNA) or {"properties": {}})["properties"]) - {"params", "max_batch_size"}
    for name in [] if is_optuna(sweeper) else map(str, sweeper):
        if name in settings:
            raise UserError(f"hydra.sweeper.{name} needs hydra/sweeper=optuna")
    if is_optuna(sweeper):
        _check_parts(sweeper)
    check_nodes(_nodes(sweeper), BUILT)
    params, when = (resolved(sweeper, name, name) or {} if name in sweeper else {} for name in ("params", "when"))
    space = Space.parse(words, params, when)
    if is_optuna(sweeper):
        if not space.parameters:
            raise UserError("nothing to draw: give values, such as 'optimizer.lr=tag(log,interval(1e-4,1e-1))'")
        return space
    for parameter in space.parameters.values():
        if parameter.is_interval:
            raise UserError(f"{parameter.key}={parameter.text}: interval needs hydra/sweeper=optuna")
    return space


def check_optuna(sweeper: DictConfig, space: Space) -> list[Constraint]:
    """Holds the settings of the Optuna sweeper against what it takes.

    Returns:
        Its constraints, whose keys the jobs' configs must have.

    Raises:
        UserError: on the first that is wrong.
    """
    objectives: Any = resolved(sweeper, "objectives", "hydra.sweeper.objectives")
    _check_objectives(objectives)
    sampler, pruner = _class_name(sweeper.sampler), _class_name(sweeper.pruner)
    if sampler == "GridSampler":
        space.grid()
    if len(objectives or [0]) > 1 and sampler == "CmaEsSampler":
        raise UserError("hydra/sweeper/sampler=cmaes follows one objective: use nsga2, tpe or gp for several")
    if len(objectives or [0]) > 1 and pruner != "NopPruner":
        raise UserError(f"{pruner} follows one objective, and this sweep has several: hydra/sweeper/pruner=none")
    constraints: Any = resolved(sweeper, "constraints", "hydra.sweeper.constraints")
    return parse_constraints(constraints or [])


def _nodes(sweeper: DictConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the sweeper, and what it draws with; a grid is given its search space when there is one."""
    for key, node in nodes(sweeper, "hydra.sweeper"):
        yield key, node | {"search_space": {}} if node["_target_"].endswith(".GridSampler") else node


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
    """Refuses a sampler or a pruner that is none, or needs a package that is not installed."""
    if not machine.has_package("optuna"):
        raise UserError(f"hydra/sweeper=optuna needs Optuna: {INSTALL}")
    for group in ("sampler", "pruner"):
        key, node = f"hydra.sweeper.{group}", sweeper.get(group)
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise UserError(f"{key}={node}: a choice is made with slashes: hydra/sweeper/{group}={node}")
        if not str(node._target_).startswith(f"optuna.{group}s."):
            raise UserError(f"{key}._target_={node._target_}: expected a class of optuna.{group}s")
        package = NEEDS.get(_class_name(node))
        if package and not machine.has_package(package):
            raise UserError(f"{key}: {_class_name(node)} needs {package}: {INSTALL}")


def _class_name(node: DictConfig) -> str:
    return str(node._target_).rpartition(".")[2]
