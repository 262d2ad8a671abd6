"""Compares groups of runs: ranked rows, each with its metrics, its costs and its test against a baseline."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from lab.engine.analysis.columns import text
from lab.engine.analysis.groups import Group, count_statuses, group_runs
from lab.engine.analysis.run_record import RunRecord
from lab.engine.analysis.statistics import Paired, holm, paired, summarise
from lab.engine.runs.metrics import Objective, at_test, default_metric, direction
from lab.engine.runs.ranking import Standing, finite_values, standing
from lab.engine.runs.run import FINISHED
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

COST = "cost/"


@dataclass(frozen=True)
class Row:
    """Holds one line of the table."""

    group: Group
    values: dict[str, Any]  # as in table.csv, by the names of its columns


@dataclass(frozen=True)
class Comparison:
    """Holds the compared runs, by group, and the metric that ranks them."""

    runs: list[RunRecord]
    metric: str  # that sorts the rows
    mode: str  # whether `min` or `max` of it is best
    objectives: list[Objective]  # of the sweep or the runs, the main one first
    baseline: str | None = None  # name of a group

    @cached_property
    def groups(self) -> list[Group]:
        return group_runs(self.runs)

    @cached_property
    def metrics(self) -> list[str]:
        """Returns the metrics of all runs without the costs; the main ones first."""
        known = dict.fromkeys(name for run in self.runs for name in run.metrics)
        return list(dict.fromkeys([*self.main, *(n for n in known if n == self.metric or not n.startswith(COST))]))

    @cached_property
    def main(self) -> list[str]:
        """Returns the metrics to show where there is little room: the objectives, and the same on the test data."""
        wanted = [self.metric, *(m for m, _ in self.objectives if not m.startswith(COST))]
        known = {name for run in self.runs for name in run.metrics}
        return [name for name in dict.fromkeys([*wanted, *map(at_test, wanted)]) if name in known]

    @cached_property
    def costs(self) -> list[str]:
        known = {name for run in self.runs for name in run.metrics if name.startswith(COST)}
        return sorted(known, key=lambda name: (name != f"{COST}seconds", name))

    @cached_property
    def keys(self) -> list[str]:
        """Returns the keys at which groups differ."""
        return list(dict.fromkeys(key for group in self.groups for key in group.keys))

    @cached_property
    def statuses(self) -> dict[str, int]:
        return count_statuses(self.runs)

    @property
    def counts(self) -> str:
        return ", ".join(f"{number} {status}" for status, number in self.statuses.items())

    @property
    def sign(self) -> int:
        """Returns 1 or -1: the metric times this is lower where it is better."""
        return {"min": 1, "max": -1}[self.mode]

    @cached_property
    def rows(self) -> list[Row]:
        """Returns the rows, the best first, by the rule of `lab.engine.runs.ranking`; of equals the earlier first."""
        rows = sorted(map(self._row, self.groups), key=self._rank)
        tested = [row for row in rows if row.values["p"] is not None]
        for row, adjusted in zip(tested, holm([row.values["p"] for row in tested]), strict=True):
            row.values["p holm"] = adjusted
        return rows

    @cached_property
    def _sweep_seeds(self) -> dict[Path, int]:
        """Returns, for each sweep, the most seeds that any of its groups has."""
        most: dict[Path, int] = {}
        for group in self.groups:
            for sweep in {run.dir.parent for run in group.runs if run.sweep}:
                seeds = {run.seed for run in group.runs if run.dir.parent == sweep}
                most[sweep] = max(most.get(sweep, 0), len(seeds))
        return most

    def wanted_seeds(self, group: Group) -> int:
        """Returns how many seeds a group should have: all that it began, and as many as any group of its sweep."""
        return max(len(group.chosen), *(self._sweep_seeds.get(run.dir.parent, 0) for run in group.runs))

    def standing(self, group: Group) -> Standing:
        """Returns whether a group may win, or why not."""
        return standing(group.chosen, self.metric, self.wanted_seeds(group), bool(group.broken))

    def _row(self, group: Group) -> Row:
        values: dict[str, Any] = {"group": group.name}
        values |= {key: text(group.keys.get(key, "")) for key in self.keys if key not in values}
        values |= dict.fromkeys(self.statuses, 0) | count_statuses(group.runs)
        for metric in self.metrics:
            found = vars(summarise([*group.values(metric).values()]))
            values |= {f"{metric} {what}": value for what, value in found.items()}
        values[f"{self.metric} so far"] = summarise(group.so_far(self.metric)).mean
        ended = group.completed or [run for run in group.runs if run.status in FINISHED]
        for name in self.costs:
            values[name] = summarise([run.metrics[name] for run in ended if name in run.metrics]).mean
        against = dict.fromkeys(vars(Paired()))
        if self.baseline and group.name != self.baseline:
            baseline = next(other for other in self.groups if other.name == self.baseline)
            ours, theirs = group.values(self.metric), baseline.values(self.metric)
            common = [seed for seed in ours if seed in theirs]
            against = vars(paired([ours[seed] for seed in common], [theirs[seed] for seed in common]))
        return Row(group, values | {"baseline": self.baseline, **against, "p holm": None})

    def _rank(self, row: Row) -> tuple[Any, ...]:
        found = finite_values(row.group.chosen, self.metric)
        value = fmean(found) if found else row.values[f"{self.metric} so far"]
        known = value is not None and not math.isnan(value)
        return self.standing(row.group), not known, self.sign * value if known else 0


def compare(
    runs: Sequence[RunRecord], metric: str | None = None, mode: str | None = None, baseline: str | None = None
) -> Comparison:
    """Compares `runs`.

    Args:
        runs: at least one that has completed.
        metric: to sort by; without it the objective of their sweep, or that of most of them, or see `default_metric`.
        mode: `min` or `max`; without it see `direction`.
        baseline: the name of a group, or words that only one group's name has.

    Raises:
        UserError: when nothing is finished, one of the arguments names nothing, or nothing tells the direction.
    """
    if not any(run.status in FINISHED and run.metrics for run in runs):
        stand = ", ".join(f"{number} {status}" for status, number in count_statuses(runs).items())
        raise UserError(f"no run has finished: {len(runs)} found, {stand}; a finished one has a metrics.json")
    if mode not in (None, "min", "max"):
        raise UserError(f"mode={mode}: expected min or max")
    known = sorted({name for run in runs for name in run.metrics})
    common = [found for found, _ in Counter(map(_objectives, runs)).most_common()]
    objectives = common[0]
    metric = metric or (objectives[0][0] if objectives else default_metric(known))
    if metric not in known:
        raise UserError(f"metric={metric}: no run has it{nearest(metric, known)}\nthey have: {', '.join(known)}")
    mode = direction(metric, [objective for found in common for objective in found], mode)
    comparison = Comparison([*runs], metric, mode, [*objectives])
    if not baseline:
        return comparison
    return replace(comparison, baseline=_find(baseline, [group.name for group in comparison.groups]))


def _objectives(run: RunRecord) -> tuple[Objective, ...]:
    """Returns the objectives of a run's sweep, or its own."""
    found = run.sweep.get("objectives") or [run.config.get("objective") or {}]
    return tuple((str(o["metric"]), o["mode"]) for o in found if o.get("metric") and o.get("mode") in ("min", "max"))


def _find(baseline: str, names: Sequence[str]) -> str:
    """Returns the name of the group that `baseline` names, in whole or by some of its words."""
    words = baseline.split()
    fitting = [name for name in names if name == baseline] or [
        name for name in names if all(any(word in (w, w.partition("=")[2]) for w in name.split()) for word in words)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(f"baseline={baseline}: {len(fitting)} groups are called so: {'; '.join(fitting[:4])}")
    some = "; ".join(names[:4]) + (f"; and {len(names) - 4} more" if len(names) > 4 else "")
    raise UserError(f"baseline={baseline}: no such group{nearest(baseline, names)}\nthe groups: {some}")
