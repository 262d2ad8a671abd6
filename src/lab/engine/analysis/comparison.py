"""What a comparison says: its rows in order, each with its figures, its costs and its test against a baseline."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lab.engine.analysis.groups import Group, group_runs
from lab.engine.analysis.recorded import ORDER, Recorded
from lab.engine.analysis.statistics import Paired, Summary, holm, paired, summarise
from lab.engine.runs.metrics import Objective, at_test, default_metric, direction
from lab.engine.runs.run import FINISHED
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

COST = "cost/"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        group: the runs that it stands for.
        summaries: of every metric, over seeds.
        costs: means over the completed runs, or where there are none over the pruned ones, by name.
        so_far: mean of the objective over runs that did not complete, None of none.
        against: the test against the baseline; None for the baseline itself, and where there is none.
    """

    group: Group
    summaries: dict[str, Summary]
    costs: dict[str, float]
    so_far: float | None
    against: Paired | None = None


@dataclass(frozen=True)
class Comparison:
    """Runs in groups, and what they are judged by.

    Args:
        runs: all of them.
        metric: which the rows are sorted by.
        mode: whether `min` or `max` of it is best.
        objectives: of the sweep or the runs: pairs of metric and mode, the first is the main one.
        baseline: name of a group, or None.
    """

    runs: list[Recorded]
    metric: str
    mode: str
    objectives: list[Objective]
    baseline: str | None

    @cached_property
    def groups(self) -> list[Group]:
        return group_runs(self.runs)

    @cached_property
    def metrics(self) -> list[str]:
        """Every figure of any run but for costs, those that count first."""
        known = dict.fromkeys(name for run in self.runs for name in run.metrics if not self._is_cost(name))
        return list(dict.fromkeys([*(name for name in self.main if name in known), *known]))

    @cached_property
    def main(self) -> list[str]:
        """The figures to show where there is little room: what is judged by, and the same on the test data."""
        known = {name for run in self.runs for name in run.metrics}
        wanted = [self.metric, *(metric for metric, _ in self.objectives)]
        tested = [at_test(metric) for metric in wanted]
        return [name for name in dict.fromkeys([*wanted, *tested]) if name in known and not self._is_cost(name)]

    def _is_cost(self, name: str) -> bool:
        return name.startswith(COST) and name != self.metric

    @cached_property
    def costs(self) -> list[str]:
        known = {name for run in self.runs for name in run.metrics if name.startswith(COST)}
        return sorted(known, key=lambda name: (name != f"{COST}seconds", name))

    @cached_property
    def keys(self) -> list[str]:
        """The keys at which groups differ."""
        return list(dict.fromkeys(key for group in self.groups for key in group.keys))

    @cached_property
    def statuses(self) -> dict[str, int]:
        counts = Counter(run.status for run in self.runs)
        return {status: counts[status] for status in (*ORDER, *sorted(set(counts) - {*ORDER})) if counts[status]}

    @property
    def sign(self) -> int:
        """Times this, a lower figure is a better one."""
        return {"min": 1, "max": -1}[self.mode]

    @cached_property
    def rows(self) -> list[Row]:
        """The best first; then those that break a constraint; groups in which nothing completed come last."""
        rows = sorted((self._row(group) for group in self.groups), key=self._rank)
        tested = [row.against for row in rows if row.against and row.against.p is not None]
        adjusted = iter(holm([test.p for test in tested if test.p is not None]))
        return [
            replace(row, against=replace(row.against, adjusted=next(adjusted)))
            if row.against and row.against.p is not None
            else row
            for row in rows
        ]

    def _row(self, group: Group) -> Row:
        ended = group.completed or [run for run in group.runs if run.status in FINISHED]
        costs = {name: [run.metrics[name] for run in ended if name in run.metrics] for name in self.costs}
        against = None
        if self.baseline and group.name != self.baseline:
            ours, theirs = group.values(self.metric), self._baseline.values(self.metric)
            common = [seed for seed in ours if seed in theirs]
            against = paired([ours[seed] for seed in common], [theirs[seed] for seed in common])
        return Row(
            group,
            {metric: summarise(list(group.values(metric).values())) for metric in self.metrics},
            {name: sum(values) / len(values) for name, values in costs.items() if values},
            summarise(group.so_far(self.metric)).mean,
            against,
        )

    @cached_property
    def _baseline(self) -> Group:
        return next(group for group in self.groups if group.name == self.baseline)

    def _rank(self, row: Row) -> tuple[Any, ...]:
        mean = row.summaries[self.metric].mean
        value = mean if mean is not None else row.so_far
        number = value is not None and value == value
        broken = bool(row.group.broken)
        return (
            mean is None,
            broken,
            not number,
            self.sign * value if number and value is not None else 0,
            row.group.name,
        )


def compare(
    runs: Sequence[Recorded], metric: str | None = None, mode: str | None = None, baseline: str | None = None
) -> Comparison:
    """Compares `runs`.

    Args:
        runs: at least one that has completed.
        metric: to sort by; without it the objective of their sweep, or that of most of them, or see `default_metric`.
        mode: `min` or `max`; without it see `direction`.
        baseline: the name of a group, or words that only one group's name has.

    Raises:
        UserError: when nothing is finished, or one of the arguments names nothing.
    """
    if not any(run.status in FINISHED and run.metrics for run in runs):
        counts = Counter(run.status for run in runs)
        stand = ", ".join(f"{number} {status}" for status, number in counts.items())
        raise UserError(f"no run has finished: {len(runs)} found, {stand}; a finished one has a metrics.json")
    if mode not in (None, "min", "max"):
        raise UserError(f"mode={mode}: expected min or max")
    known = sorted({name for run in runs for name in run.metrics})
    objectives = _objectives(runs)
    metric = metric or (objectives[0][0] if objectives else default_metric(known))
    if metric not in known:
        raise UserError(f"metric={metric}: no run has it{nearest(metric, known)}\nthey have: {', '.join(known)}")
    found = Comparison(list(runs), metric, direction(metric, objectives, mode), objectives, None)
    return replace(found, baseline=_find(baseline, [group.name for group in found.groups])) if baseline else found


def _objectives(runs: Sequence[Recorded]) -> list[Objective]:
    """What most runs are judged by; nothing where they have no objective."""
    of_sweeps = [tuple((o["metric"], o["mode"]) for o in run.sweep.get("objectives") or []) for run in runs]
    own = [(run.objective,) if run.objective else () for run in runs]
    counts = Counter(found or alone for found, alone in zip(of_sweeps, own, strict=True))
    return list(counts.most_common(1)[0][0])


def _find(baseline: str, names: Sequence[str]) -> str:
    """The group that is meant."""
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
