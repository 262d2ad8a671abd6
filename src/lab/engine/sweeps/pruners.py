"""What a pruner goes by, and when it has nothing to go by."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lab.engine.utils.errors import UserError

# What each job of a sweep that prunes is told
PRUNING = "++callbacks.pruning={_target_:lab.engine.sweeps.pruning.Pruning,directory:${paths.run_dir}}"


def prunes(sweeper: Mapping[str, Any]) -> bool:
    """Whether a sweep with these settings of `hydra.sweeper` ends runs amid their training; over seeds, between two."""
    return _is_pruner(sweeper.get("pruner")) and not sweeper.get("seeds")


def check_pruner(pruner: Mapping[str, Any] | None, seeds: Sequence[int] | None, metrics: Sequence[str]) -> None:
    """Refuses a pruner that would have nothing to go by.

    Args:
        pruner: `hydra.sweeper.pruner`.
        seeds: `hydra.sweeper.seeds`.
        metrics: the sweep's objectives.

    Raises:
        UserError: with what to choose instead.
    """
    if seeds is not None and (len(set(seeds)) < len(seeds) or not seeds):
        raise UserError(f"hydra.sweeper.seeds={list(seeds)}: expected null, or seeds that differ, such as [0, 1, 2]")
    if not pruner or not _is_pruner(pruner):
        return
    name = str(pruner["_target_"]).rpartition(".")[2]
    none = "hydra/sweeper/pruner=none"
    if len(metrics) > 1:
        raise UserError(f"{name} follows one objective, and this sweep has {len(metrics)}: {none}")
    if metrics[0].startswith(("test/", "cost/")):
        raise UserError(f"{name}: {metrics[0]} is known when a run is over, and there is nothing to prune then: {none}")
    if not is_wilcoxon(pruner):
        return
    # A signed-rank test of n pairs gives 1 / 2^n at the least, and the last seed is trained after the last test
    least = max(2, math.floor(-math.log2(pruner["p_threshold"])) + 1) + 1 if pruner["p_threshold"] > 0 else math.inf
    if seeds is None or len(seeds) < least:
        raise UserError(
            f"{name} compares trials seed by seed: with p_threshold={pruner['p_threshold']} give at least {least} of"
            " them, such as hydra.sweeper.seeds=[0,1,2,3,4,5]"
        )


def is_wilcoxon(pruner: Mapping[str, Any]) -> bool:
    """Whether a pruner compares trials step by step, and not by the last one."""
    return str(pruner["_target_"]).endswith(".WilcoxonPruner")


def _is_pruner(pruner: Mapping[str, Any] | None) -> bool:
    return bool(pruner) and not str(pruner["_target_"]).endswith(".NopPruner")  # type: ignore[index]
