"""Learning curves: of each group the mean over its seeds with a band, of pruned runs where they stop."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lab.engine.analysis.comparison import Comparison, Row
from lab.engine.analysis.plots import GREY, PALETTE, Figure, axis, faded, figure, plain
from lab.engine.analysis.recorded import Recorded
from lab.engine.analysis.statistics import Summary, summarise

MOST_METRICS = 8
MOST_POINTS = 200, 50  # of a curve with a colour, and of a grey one; of more every k-th is drawn


def curve_metrics(comparison: Comparison) -> list[str]:
    """The figures that have curves: what is judged by, then those of validation, then those of training."""
    found = dict.fromkeys(tag for run in comparison.runs for tag in run.curves)
    tags = [tag for tag in found if not tag.endswith("_per_second")]
    wanted = [comparison.metric, *(metric for metric, _ in comparison.objectives)]
    return [tag for tag in dict.fromkeys([*wanted, *sorted(tags, reverse=True)]) if tag in found][:MOST_METRICS]


def by_epoch(comparison: Comparison, metric: str) -> bool:
    """Whether each run has the figure once an epoch: then epochs are the axis, which batch sizes leave alone."""
    curves = [run.curves[metric] for run in comparison.runs if metric in run.curves]
    return all(min(c.epochs) > 0 and len(set(c.epochs)) == len(c.epochs) for c in curves)


def points(run: Recorded, metric: str, epochs: bool) -> dict[int, float]:
    """A run's curve: value by epoch or step; what is not finite is left out."""
    if metric not in run.curves:
        return {}
    curve = run.curves[metric]
    xs = curve.epochs if epochs else curve.steps
    return {x: y for x, y in zip(xs, curve.values, strict=True) if math.isfinite(y)}


def mean_curve(runs: Sequence[Recorded], metric: str, epochs: bool, most: int) -> dict[int, Summary]:
    """Over `runs`, of those that got so far, at each epoch or step; at `most` of them, the last one included."""
    drawn = [points(run, metric, epochs) for run in runs]
    xs = sorted({x for found in drawn for x in found})[::-1]
    kept = xs[:: -(-len(xs) // most) or 1][::-1]
    return {x: summarise([found[x] for found in drawn if x in found]) for x in kept}


def learning_curves(comparison: Comparison, metric: str) -> Figure:
    """The groups' means with their intervals, over completed runs where there are any; beyond the first ten groups grey
    and without a band.
    """
    epochs = by_epoch(comparison, metric)
    drawn = [(i, row) for i, row in enumerate(comparison.rows) if any(metric in run.curves for run in row.group.runs)]
    data = [trace for i, row in reversed(drawn) for trace in _traces(row, i, metric, epochs)]
    means = [y for trace in data if "customdata" in trace for y in trace["y"]]
    room = 0.08 * (max(means) - min(means)) if means else 0.0
    seen = (
        {"range": [min(means) - room, max(means) + room]} if room else {}
    )  # bands over two seeds are many times wider
    return figure(data, _across(data, epochs), axis(metric, **seen), legend={"traceorder": "reversed"})


def pruned_curves(comparison: Comparison) -> Figure | None:
    """The objective of each run; of those that were pruned up to the mark at which they were stopped."""
    metric = next((m for m, _ in comparison.objectives if any(m in run.curves for run in comparison.runs)), None)
    if metric is None or not comparison.statuses.get("pruned"):
        return None
    epochs = by_epoch(comparison, metric)
    data = []
    for row in comparison.rows:
        for run in row.group.runs:
            found = points(run, metric, epochs)
            if not found or run.status not in ("completed", "pruned"):
                continue
            stopped = run.status == "pruned"
            last = [0] * (len(found) - 1) + [9]
            trace = {"type": "scatter", "x": list(found), "y": list(found.values()), "showlegend": False}
            trace["name"] = plain(f"{run.name}: {row.group.name}")
            trace |= {"line": {"width": 1.2, "color": PALETTE[1] if stopped else GREY}, "mode": "lines"}
            if stopped:
                trace |= {"mode": "lines+markers", "marker": {"symbol": "x", "size": last}}
            data.append(trace | {"hovertemplate": "%{x}: %{y:.4g}"})
    return figure(sorted(data, key=lambda t: t["mode"]), _across(data, epochs), axis(metric))


def saved_epochs(comparison: Comparison) -> tuple[float, float]:
    """Epochs that pruned runs were trained, and those that they would have been: by their own `trainer.max_epochs`, or
    where that is no end as many as the longest completed run had.
    """
    lengths = {run.dir: _trained(run) for run in comparison.runs}
    longest = max((lengths[run.dir] for run in comparison.runs if run.status == "completed"), default=0)
    spent = full = 0.0
    for run in comparison.runs:
        if run.status == "pruned":
            limit = (run.config.get("trainer") or {}).get("max_epochs")
            spent += lengths[run.dir]
            full += max(lengths[run.dir], limit if isinstance(limit, int) and limit > 0 else longest)
    return spent, full


def curve_rows(comparison: Comparison, metrics: Sequence[str]) -> Iterator[list[Any]]:
    """Every point of the curves: group, run, seed, status, metric, step, epoch, value."""
    for row in comparison.rows:
        for run in row.group.runs:
            for metric in metrics:
                if curve := run.curves.get(metric):
                    same = [row.group.name, run.name, run.seed, run.status, metric]
                    for step, epoch, value in zip(curve.steps, curve.epochs, curve.values, strict=True):
                        yield [*same, step, epoch or None, value]


def _traces(row: Row, rank: int, metric: str, epochs: bool) -> Iterator[dict[str, Any]]:
    top = rank < len(PALETTE)
    found = mean_curve(row.group.completed or row.group.chosen, metric, epochs, MOST_POINTS[not top])
    name, colour = plain(row.group.name), PALETTE[rank] if top else GREY
    banded = [(x, s) for x, s in found.items() if s.low is not None]
    if top and banded:
        xs = [x for x, _ in banded]
        yield {
            "type": "scatter", "x": xs + xs[::-1], "y": [s.high for _, s in banded] + [s.low for _, s in banded][::-1],
            "fill": "toself", "fillcolor": faded(colour, 0.18), "line": {"width": 0}, "mode": "lines",
            "hoverinfo": "skip", "legendgroup": name, "showlegend": False, "name": name,
        }  # fmt: skip
    yield {
        "type": "scatter", "mode": "lines+markers" if len(found) < 25 else "lines", "name": name, "legendgroup": name,
        "x": list(found), "y": [s.mean for s in found.values()],
        "customdata": [[s.n, s.low, s.high] for s in found.values()],
        "line": {"color": colour, "width": 2 if top else 1}, "marker": {"size": 5}, "showlegend": top,
        "hovertemplate": "%{y:.4g} [%{customdata[1]:.4g}, %{customdata[2]:.4g}], n = %{customdata[0]}",
    }  # fmt: skip


def _across(data: Sequence[dict[str, Any]], epochs: bool) -> dict[str, Any]:
    """The axis of epochs or steps; few epochs are counted one by one."""
    few = epochs and max((x for trace in data for x in trace["x"]), default=0) <= 12
    return axis("epoch" if epochs else "step", **({"dtick": 1} if few else {}))


def _trained(run: Recorded) -> float:
    """How many epochs a run had."""
    if "cost/epochs" in run.metrics:
        return run.metrics["cost/epochs"]
    return float(max((curve.epochs[-1] for curve in run.curves.values()), default=0))
