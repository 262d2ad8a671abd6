"""What quality costs: each group's mean against a cost, and the front of those that none beats in both."""

from collections.abc import Sequence
from typing import Any

from lab.engine.analysis.comparison import COST, Comparison
from lab.engine.analysis.plots import PALETTE, Figure, axis, figure, is_wide, plain

UNITS = {"cost/seconds": "training time in s", "cost/epochs": "epochs", "cost/steps": "optimizer steps"}


def pareto_fronts(comparison: Comparison) -> dict[str, Figure]:
    """A figure for each cost, and for each further objective, that differs between groups."""
    found = {}
    signs = dict.fromkeys(comparison.costs, 1)
    signs |= {m: 1 if mode == "min" else -1 for m, mode in comparison.objectives if m != comparison.metric}
    for name, sign in signs.items():
        points = _points(comparison, name)
        if len({x for x, *_ in points}) > 1:
            found[name] = _draw(comparison, name, sign, points)
    return found


def pareto_front(points: Sequence[tuple[float, float]], x_sign: int, y_sign: int) -> list[int]:
    """Which points no other one beats, by their first figure.

    Args:
        points: pairs of figures.
        x_sign: 1 where a lower first figure is better, -1 where a higher one is.
        y_sign: the same of the second.
    """
    order = sorted(range(len(points)), key=lambda i: (x_sign * points[i][0], y_sign * points[i][1]))
    kept: list[int] = []
    for i in order:
        if not kept or y_sign * points[i][1] < y_sign * points[kept[-1]][1]:
            kept.append(i)
    return kept


def _points(comparison: Comparison, name: str) -> list[tuple[float, float, float | None, str]]:
    """Cost, mean, half of the interval and name of each group that has both figures."""
    found = []
    for row in comparison.rows:
        quality = row.summaries[comparison.metric]
        other = row.summaries[name].mean if name in row.summaries else row.costs.get(name)
        if quality.mean is None or other is None or quality.mean != quality.mean or other != other:
            continue
        half = None if quality.high is None else quality.high - quality.mean
        found.append((other, quality.mean, half, row.group.name))
    return found


def _draw(comparison: Comparison, name: str, sign: int, points: list[tuple[float, float, float | None, str]]) -> Figure:
    best = pareto_front([(x, y) for x, y, *_ in points], sign, comparison.sign)
    xs = [x for x, *_ in points]
    groups: dict[str, Any] = {
        "type": "scatter", "mode": "markers", "name": "groups", "showlegend": False, "x": xs,
        "y": [y for _, y, *_ in points], "text": [plain(group) for *_, group in points],
        "marker": {"size": 9, "color": [PALETTE[1] if i in best else PALETTE[0] for i in range(len(points))]},
        "hovertemplate": "%{text}<br>%{x:.4g}: %{y:.4g}",
    }  # fmt: skip
    if any(half is not None for _, _, half, _ in points):
        groups["error_y"] = {"array": [half for _, _, half, _ in points], "thickness": 1, "width": 3, "color": "#888"}
    line = {
        "type": "scatter", "mode": "lines", "name": "Pareto front", "showlegend": False, "hoverinfo": "skip",
        "x": [points[i][0] for i in best], "y": [points[i][1] for i in best],
        "line": {"color": PALETTE[1], "width": 1.5, "shape": "linear", "dash": "dot"},
    }  # fmt: skip
    kind = "log" if is_wide(xs) else "linear"
    title = UNITS.get(name, name.removeprefix(COST))
    return figure([line, groups], axis(title, type=kind), axis(comparison.metric))
