"""Groups runs that differ only in their seed, and names each group by the keys at which it differs from the others."""

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
    """Holds the runs of one config."""

    name: str  # unique
    runs: list[RunRecord]
    keys: dict[str, Any]  # its values at the keys at which groups differ; a key that it does not have is left out

    @cached_property
    def chosen(self) -> list[RunRecord]:
        """Returns one run for each seed."""
        return one_per_seed(self.runs)

    @property
    def completed(self) -> list[RunRecord]:
        """Returns the chosen runs that have completed: the means are over these."""
        return [run for run in self.chosen if run.status == "completed"]

    @property
    def repeated(self) -> int:
        """Counts the completed runs that are left out because another one has the same seed."""
        return sum(run.status == "completed" for run in self.runs) - len(self.completed)

    @property
    def broken(self) -> list[str]:
        """Returns the constraints that any of the runs breaks."""
        return list(dict.fromkeys(text for run in self.runs for text in run.broken))

    def values(self, metric: str) -> dict[int | None, float]:
        """Returns a metric of the completed runs, by seed."""
        return {run.seed: run.metrics[metric] for run in self.completed if metric in run.metrics}

    def so_far(self, metric: str) -> list[float]:
        """Returns a metric of the runs that have not completed: pruned, failed, stopped or still running."""
        return [run.metrics[metric] for run in self.runs if run.status != "completed" and metric in run.metrics]


def count_statuses(runs: Sequence[RunRecord]) -> dict[str, int]:
    """Counts the runs of each status, in the order of `ORDER`."""
    counts = Counter(run.status for run in runs)
    return {status: counts[status] for status in (*ORDER, *sorted({*counts} - {*ORDER})) if counts[status]}


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Groups `runs`, in the order of the groups' first runs."""
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
