"""Ranks groups of runs that differ in their seed alone: one rule for the winner of a sweep and for every comparison.

Groups are compared by the mean over their runs, one for each seed. A group that lacks seeds cannot win by the mean of
the others. Loads no torch.
"""

import math
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar


class Ranked(Protocol):
    """Is the interface of a run that can be ranked, whichever class read it."""

    @property
    def dir(self) -> Path: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def status(self) -> str: ...
    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def metrics(self) -> dict[str, float]: ...


R = TypeVar("R", bound=Ranked)


class Standing(IntEnum):
    """Says whether a group can win, and if not, why; the best first."""

    CANDIDATE = 0
    BREAKS_CONSTRAINT = 1
    LACKS_SEEDS = 2  # some seed failed, was pruned, is not finite, or is not there while other groups have it
    NOT_COMPLETED = 3  # no seed has the metric yet


def one_per_seed(runs: Iterable[R]) -> list[R]:
    """Returns one run for each seed, since a repeated seed is no second measurement: the one that completed last, or
    if none has, the one that began last.
    """
    ranked = sorted(runs, key=lambda run: (run.status == "completed", str(run.metadata.get("started"))))
    by_seed = {run.seed: run for run in ranked}
    return [by_seed[seed] for seed in sorted(by_seed, key=str)]


def finite_values(runs: Iterable[Ranked], metric: str) -> list[float]:
    """Returns the finite values of a metric in the completed ones among `runs`."""
    found = [run.metrics.get(metric, math.nan) for run in runs if run.status == "completed"]
    return [value for value in found if math.isfinite(value)]


def standing(runs: Sequence[Ranked], metric: str, seeds: int, breaks_constraint: bool) -> Standing:
    """Returns the standing of a group.

    Args:
        runs: of the group, one a seed.
        metric: that groups are ranked by.
        seeds: that the group is to have: as many as any other group of its sweep.
        breaks_constraint: whether one of the runs breaks a constraint of the sweep.
    """
    known = len(finite_values(runs, metric))
    if not known:
        return Standing.NOT_COMPLETED
    if known < max(seeds, len(runs)):
        return Standing.LACKS_SEEDS
    return Standing.BREAKS_CONSTRAINT if breaks_constraint else Standing.CANDIDATE
