"""Builds Optuna's samplers and pruners, from `hydra.sweeper.sampler` and `hydra.sweeper.pruner`."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lab.engine.config.instantiate import locate, targets
from lab.engine.sweeps.space import Space
from lab.engine.utils.errors import UserError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

REMEDY = "PACKAGES in lab/engine/sweeps/samplers.py"
PACKAGES = ["optuna.samplers", "optuna.pruners"]


def class_name(node: Mapping[str, Any] | None, default: str = "") -> str:
    """Returns the name of a node's class, without its module; `default` for no node."""
    return str(node["_target_"]).rpartition(".")[2] if node else default


def prunes(sweeper: Mapping[str, Any]) -> bool:
    """Tells whether a sweep prunes runs while they train; with several seeds it prunes between two runs instead."""
    return class_name(sweeper.get("pruner"), "NopPruner") != "NopPruner" and not sweeper.get("seeds")


def build_sampler(config: DictConfig, space: Space, number: int = 0) -> "BaseSampler":
    """Builds the sampler of one trial.

    Each trial has one of its own, so that what it draws depends only on the seed, its number and the trials before it,
    and not on whether the sweep was resumed: a single sampler would then draw its first values again.

    Args:
        config: its class and arguments.
        space: what it draws from.
        number: of the trial; the order of a grid is that of the seed alone.

    Raises:
        UserError: when the class is not allowed, does not take its arguments, or cannot draw from this space.
    """
    node: Any = OmegaConf.to_container(config, resolve=True)
    if class_name(node) == "GridSampler":
        return _build({"search_space": space.grid(), **node})
    if node.get("seed") is not None:
        import numpy as np

        # Hashed, not added: else trial 1 of seed 0 would be trial 0 of seed 1
        node["seed"] = int(np.random.SeedSequence([node["seed"], number]).generate_state(1)[0])
    return _build(node)


def build_pruner(config: DictConfig) -> "BasePruner":
    """Builds the pruner, with any pruner that it wraps.

    Raises:
        UserError: when the class is not allowed, or does not take its arguments.
    """
    return _build(OmegaConf.to_container(config, resolve=True))


def _build(node: Any) -> Any:
    for part in targets(node):
        locate(part["_target_"], PACKAGES, REMEDY)
    from optuna.exceptions import ExperimentalWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the lock file holds the version that was tried
            return instantiate(node, _convert_="all")
    except InstantiationException as error:
        raise UserError(f"{node['_target_']} cannot be built: {error.__cause__ or error}") from error
