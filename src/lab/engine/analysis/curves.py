"""Reads learning curves: as rows, and over the seeds of a group as a mean with an interval."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.engine.analysis.comparison import Comparison
from lab.engine.analysis.statistics import Summary, summarise

MOST_METRICS = 8
CURVES = ("group", "run", "seed", "status", "metric", "step", "epoch", "value")


def curve_metrics(comparison: Comparison) -> list[str]:
    """Returns the metrics that have curves: the objectives, then those of validation, then those of training."""
    found = {tag for run in comparison.runs for tag in run.curves if tag.startswith(("train", "val"))}
    tags = sorted((tag for tag in found if not tag.endswith("_per_second")), reverse=True)
    wanted = [comparison.metric, *(metric for metric, _ in comparison.objectives)]
    return [tag for tag in dict.fromkeys([*wanted, *tags]) if tag in found][:MOST_METRICS]


def curve_rows(comparison: Comparison) -> Iterator[list[Any]]:
    """Yields a row for every point of every curve, with the columns `CURVES`."""
    metrics = curve_metrics(comparison)
    for row in comparison.rows:
        for run in row.group.runs:
            for metric in metrics:
                same = [row.group.name, run.name, run.seed, run.status, metric]
                for step, value in run.curves.get(metric, {}).items():
                    yield [*same, step, run.epochs.get(step), value]


def drawn_curves(comparison: Comparison, metric: str) -> tuple[str, dict[Path, dict[int, float]]]:
    """Returns the unit of the x-axis and the curve of each run over it, by directory; without values that are not
    finite. The unit is `epoch`, which does not depend on batch sizes, if each run has one value an epoch, else `step`.
    """
    runs = [run for run in comparison.runs if metric in run.curves]
    epochs = {run.dir: [run.epochs.get(step, 0) for step in run.curves[metric]] for run in runs}
    by_epoch = all(0 not in found and len({*found}) == len(found) for found in epochs.values())
    found: dict[Path, dict[int, float]] = {}
    for run in runs:
        xs = epochs[run.dir] if by_epoch else [*run.curves[metric]]
        found[run.dir] = {x: y for x, y in zip(xs, run.curves[metric].values(), strict=True) if math.isfinite(y)}
    return "epoch" if by_epoch else "step", found


def mean_curve(curves: Sequence[dict[int, float]], most: int) -> dict[int, Summary]:
    """Averages `curves` at no more than `most` epochs or steps, the last included, each over those that reach it."""
    xs = sorted({x for curve in curves for x in curve})[::-1]
    kept = xs[:: -(-len(xs) // most) or 1][::-1]
    return {x: summarise([curve[x] for curve in curves if x in curve]) for x in kept}


def saved_epochs(comparison: Comparison) -> tuple[float, float]:
    """Returns how many epochs pruned runs trained, and how many they would have trained unpruned: their own
    `trainer.max_epochs`, or without one as many as the longest completed run.
    """
    ended = [run for run in comparison.runs if "cost/epochs" in run.metrics]
    longest = max((run.metrics["cost/epochs"] for run in ended if run.status == "completed"), default=0)
    spent = full = 0.0
    for run in ended:
        if run.status == "pruned":
            trained, limit = run.metrics["cost/epochs"], (run.config.get("trainer") or {}).get("max_epochs")
            spent += trained
            full += max(trained, limit if isinstance(limit, int) and limit > 0 else longest)
    return spent, full
