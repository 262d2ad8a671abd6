"""Draws the learning curves of the page, and holds helpers for its figures."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from lab.engine.analysis.comparison import Comparison
from lab.engine.analysis.curves import curve_metrics, drawn_curves, mean_curve
from lab.engine.runs.run import FINISHED

# Okabe and Ito (2008), for colour-blind readers; black is the text's own colour, and yellow is too light on white
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b61c4", "#8c6d31", "#4c9f9f", "#b2182b"]
GREY = "rgba(128,128,128,0.45)"
MOST_POINTS = 200, 50  # of a curve with a colour, and of a grey one; of more every k-th is drawn

Figure = dict[str, Any]  # data and layout: plotly's classes would take seconds to check thousands of curves


def figure(data: Sequence[dict[str, Any]], x: dict[str, Any], y: dict[str, Any]) -> Figure:
    """Returns a figure with two axes."""
    return {"data": data, "layout": {"xaxis": x, "yaxis": y}}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Returns an axis with its title; `more` are attributes of plotly's."""
    return {"title": {"text": plain(title)}} | more


def plain(text: str) -> str:
    """Escapes a text, whose tags plotly would take for markup."""
    return escape(text, quote=False)


def learning_curves(comparison: Comparison, metric: str) -> Figure:
    """Draws each group's mean with its interval, over completed runs where there are any; groups beyond the first ten
    are grey and without a band.
    """
    unit, curves = drawn_curves(comparison, metric)
    data: list[dict[str, Any]] = []
    for rank, row in reversed([*enumerate(comparison.rows)]):
        runs = row.group.completed or row.group.chosen
        if found := [curves[run.dir] for run in runs if run.dir in curves]:
            data += _mean_and_band(plain(row.group.name), rank, found)
    means = [y for trace in data if "customdata" in trace for y in trace["y"]]
    room = 0.08 * (max(means) - min(means)) if means else 0.0
    # Bands over two seeds are many times wider
    seen = {"range": [min(means) - room, max(means) + room]} if room else {}
    return figure(data, _across(data, unit), axis(metric, **seen))


def pruned_curves(comparison: Comparison) -> Figure | None:
    """Draws the objective of each run over time; a cross marks the end of a pruned one."""
    known = curve_metrics(comparison)
    metric = next((metric for metric, _ in comparison.objectives if metric in known), None)
    if metric is None:
        return None
    unit, curves = drawn_curves(comparison, metric)
    data = []
    for row in comparison.rows:
        for run in row.group.runs:
            if run.status not in FINISHED or not (found := curves.get(run.dir)):
                continue
            trace = {"x": [*found], "y": [*found.values()], "name": plain(f"{run.name}: {row.group.name}")}
            trace |= {"mode": "lines", "line": {"width": 1.2, "color": GREY}, "showlegend": False}
            if run.status == "pruned":
                mark = {"symbol": "x", "size": [0] * (len(found) - 1) + [9]}
                trace |= {"mode": "lines+markers", "line": {"width": 1.2, "color": PALETTE[1]}, "marker": mark}
            data.append(trace | {"hovertemplate": "%{x}: %{y:.4g}"})
    return figure(sorted(data, key=lambda trace: trace["mode"]), _across(data, unit), axis(metric))


def _mean_and_band(name: str, rank: int, curves: Sequence[dict[int, float]]) -> Iterator[dict[str, Any]]:
    top = rank < len(PALETTE)
    found = mean_curve(curves, MOST_POINTS[not top])
    colour = PALETTE[rank] if top else GREY
    banded = {x: s for x, s in found.items() if s.low is not None}
    if top and banded:
        ends = [s.high for s in banded.values()] + [s.low for s in banded.values()][::-1]
        yield {
            "x": [*banded, *reversed(banded)], "y": ends, "fill": "toself", "fillcolor": f"{colour}2e", "mode": "lines",
            "line": {"width": 0}, "hoverinfo": "skip", "name": name, "legendgroup": name, "showlegend": False,
        }  # fmt: skip
    yield {
        "x": [*found], "y": [s.mean for s in found.values()], "mode": "lines+markers" if len(found) < 25 else "lines",
        "name": name, "legendgroup": name, "showlegend": top, "line": {"color": colour, "width": 2 if top else 1},
        "marker": {"size": 5}, "customdata": [[s.n, s.low, s.high] for s in found.values()],
        "hovertemplate": "%{y:.4g} [%{customdata[1]:.4g}, %{customdata[2]:.4g}], n = %{customdata[0]}",
    }  # fmt: skip


def _across(data: Sequence[dict[str, Any]], unit: str) -> dict[str, Any]:
    """Returns the axis of epochs or steps; few epochs are counted one by one."""
    few = unit == "epoch" and max((x for trace in data for x in trace["x"]), default=0) <= 12
    return axis(unit, **({"dtick": 1} if few else {}))
