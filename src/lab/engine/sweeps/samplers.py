"""Optuna's samplers and pruners, from `hydra.sweeper.sampler` and `hydra.sweeper.pruner`."""

import warnings
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.instantiate import locate, targets
from lab.engine.sweeps.space import Space
from lab.engine.utils.errors import UserError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

REMEDY = "PACKAGES in lab/engine/sweeps/samplers.py"
PACKAGES = ["optuna.samplers", "optuna.pruners"]
GRID = "optuna.samplers.GridSampler"


def build_sampler(config: DictConfig, space: Space, number: int = 0) -> "BaseSampler":
    """Makes the sampler of one trial.

    With one of its own for each trial, what is drawn depends on the seed, the trial's number and the trials before it
    alone, and not on whether the sweep was stopped meanwhile: one for all would begin again with what it drew first.

    Args:
        config: its class and arguments.
        space: what it draws from.
        number: of the trial; the order of a grid is that of the seed alone.

    Raises:
        UserError: when the class is not allowed, does not take its arguments, or cannot draw from this space.
    """
    node: Any = OmegaConf.to_container(config, resolve=True)
    if node["_target_"] == GRID:
        return _make({"search_space": space.grid(), **node})
    if node.get("seed") is not None:
        import numpy as np

        # Hashed, not added: else trial 1 of seed 0 would be trial 0 of seed 1
        node["seed"] = int(np.random.SeedSequence([node["seed"], number]).generate_state(1)[0])
    return _make(node)


def build_pruner(config: DictConfig) -> "BasePruner":
    """Makes the pruner.

    Raises:
        UserError: when the class is not allowed, or does not take its arguments.
    """
    return _make(OmegaConf.to_container(config, resolve=True))


def _make(node: Any) -> Any:
    """Builds a node and those inside of it, such as the pruner that a PatientPruner wraps."""
    list(targets(node))  # refuses interpolations that hide
    return _build(node)


def _build(node: Any) -> Any:
    if isinstance(node, list):
        return [_build(element) for element in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: _build(value) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return arguments
    made = locate(node["_target_"], PACKAGES, REMEDY)
    from optuna.exceptions import ExperimentalWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the lock file holds the version that was tried
            return made(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{node['_target_']} cannot be built: {error}") from error
