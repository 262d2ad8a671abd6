"""Groups runs that differ in nothing but their seed, each named by what tells it from the others."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lab.engine.analysis.columns import columns, label, text, value, values_by_key
from lab.engine.analysis.run_record import ORDER, RunRecord
from lab.engine.config.identity import group_key
from lab.engine.runs.ranking import one_per_seed


@dataclass(frozen=True)
class Group:
    """Runs of one config."""

    name: str  # unlike that of any other group
    runs: list[RunRecord]
    keys: dict[str, Any]  # its values at the keys at which groups differ; a key that it does not have is left out

    @cached_property
    def chosen(self) -> list[RunRecord]:
        """One run a seed."""
        return one_per_seed(self.runs)

    @property
    def completed(self) -> list[RunRecord]:
        """Those of the chosen runs that are in the means."""
        return [run for run in self.chosen if run.status == "completed"]

    @property
    def repeated(self) -> int:
        """Completed runs that are left out because another one has the same seed."""
        return sum(run.status == "completed" for run in self.runs) - len(self.completed)

    @property
    def broken(self) -> list[str]:
        """The constraints that one of the runs breaks."""
        return list(dict.fromkeys(text for run in self.runs for text in run.broken))

    def values(self, metric: str) -> dict[int | None, float]:
        """Returns a figure of the completed runs, by seed."""
        return {run.seed: run.metrics[metric] for run in self.completed if metric in run.metrics}

    def so_far(self, metric: str) -> list[float]:
        """Returns a figure of the runs that have come to an end before their time, or not yet."""
        return [run.metrics[metric] for run in self.runs if run.status != "completed" and metric in run.metrics]


def count_statuses(runs: Sequence[RunRecord]) -> dict[str, int]:
    """Returns how many runs stand how, in the order of `ORDER`."""
    counts = Counter(run.status for run in runs)
    return {status: counts[status] for status in (*ORDER, *sorted({*counts} - {*ORDER})) if counts[status]}


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Returns the groups of `runs`, in the order of their first runs."""
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        found.setdefault(group_key(run.config), []).append(run)
    firsts = [alike[0] for alike in found.values()]
    keys = columns(firsts) if len(found) > 1 else []
    groups: dict[str, Group] = {}
    for first, alike, values in zip(firsts, found.values(), values_by_key(firsts, keys), strict=True):
        plain = name = label(values, keys) or " on ".join(text(value(first, key)) for key in ("model", "data"))
        number = 1
        while name in groups:  # alike in all that is written, such as 0.1 and 0.1000000001
            number += 1
            name = f"{plain} ({number})"
        groups[name] = Group(name, alike, values)
    return list(groups.values())
