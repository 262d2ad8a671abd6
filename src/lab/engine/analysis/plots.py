"""Draws the learning curves of the page, and holds what its figures share."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from lab.engine.analysis.comparison import Comparison, Row
from lab.engine.analysis.curves import by_epoch, mean_curve, points
from lab.engine.analysis.template import FONT
from lab.engine.runs.run import FINISHED

# Okabe and Ito (2008), for colour-blind readers; black is the text's own colour, and yellow is too light on white
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b61c4", "#8c6d31", "#4c9f9f", "#b2182b"]
GREY = "rgba(128,128,128,0.45)"
MOST_POINTS = 200, 50  # of a curve with a colour, and of a grey one; of more every k-th is drawn

# Text and lines get their colours from the page's style, which knows whether it is dark
CLEAR = "rgba(0,0,0,0)"
TEMPLATE = {
    "layout": {
        "autosize": True, "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR, "modebar": {"bgcolor": CLEAR},
        "font": {"family": FONT, "size": 13}, "margin": {"l": 60, "r": 20, "t": 30, "b": 50}, "hovermode": "closest",
        "legend": {"traceorder": "reversed"},
        "xaxis": {"automargin": True, "tickformat": "~g"}, "yaxis": {"automargin": True},
    }
}  # fmt: skip

Figure = dict[str, Any]  # data and layout: plotly's classes would take seconds to check thousands of curves


def figure(data: Sequence[dict[str, Any]], x: dict[str, Any], y: dict[str, Any]) -> Figure:
    """Returns a figure with two axes."""
    return {"data": data, "layout": {"xaxis": x, "yaxis": y}}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Returns an axis with its title; `more` are attributes of plotly's."""
    return {"title": {"text": plain(title)}} | more


def plain(text: str) -> str:
    """Returns a text that plotly shows as it stands: it would take tags for its own markup."""
    return escape(text, quote=False)


def learning_curves(comparison: Comparison, metric: str) -> Figure:
    """Draws the groups' means with their intervals, over completed runs where there are any; beyond the first ten
    groups grey and without a band.
    """
    epochs = by_epoch(comparison, metric)
    drawn = [(i, row) for i, row in enumerate(comparison.rows) if any(metric in run.curves for run in row.group.runs)]
    data = [trace for i, row in reversed(drawn) for trace in _traces(row, i, metric, epochs)]
    means = [y for trace in data if "customdata" in trace for y in trace["y"]]
    room = 0.08 * (max(means) - min(means)) if means else 0.0
    # Bands over two seeds are many times wider
    seen = {"range": [min(means) - room, max(means) + room]} if room else {}
    return figure(data, _across(data, epochs), axis(metric, **seen))


def pruned_curves(comparison: Comparison) -> Figure | None:
    """Draws the objective of each run; of those that were pruned up to the mark at which they were stopped."""
    metric = next((m for m, _ in comparison.objectives if any(m in run.curves for run in comparison.runs)), None)
    if metric is None:
        return None
    epochs = by_epoch(comparison, metric)
    data = []
    for row in comparison.rows:
        for run in row.group.runs:
            found = points(run, metric, epochs)
            if not found or run.status not in FINISHED:
                continue
            trace = {"x": list(found), "y": list(found.values()), "name": plain(f"{run.name}: {row.group.name}")}
            trace |= {"mode": "lines", "line": {"width": 1.2, "color": GREY}, "showlegend": False}
            if run.status == "pruned":
                mark = {"symbol": "x", "size": [0] * (len(found) - 1) + [9]}
                trace |= {"mode": "lines+markers", "line": {"width": 1.2, "color": PALETTE[1]}, "marker": mark}
            data.append(trace | {"hovertemplate": "%{x}: %{y:.4g}"})
    return figure(sorted(data, key=lambda trace: trace["mode"]), _across(data, epochs), axis(metric))


def _traces(row: Row, rank: int, metric: str, epochs: bool) -> Iterator[dict[str, Any]]:
    top = rank < len(PALETTE)
    found = mean_curve(row.group.completed or row.group.chosen, metric, epochs, MOST_POINTS[not top])
    name, colour = plain(row.group.name), PALETTE[rank] if top else GREY
    banded = {x: s for x, s in found.items() if s.low is not None}
    if top and banded:
        ends = [s.high for s in banded.values()] + [s.low for s in banded.values()][::-1]
        yield {
            "x": [*banded, *reversed(banded)], "y": ends, "fill": "toself", "fillcolor": f"{colour}2e", "mode": "lines",
            "line": {"width": 0}, "hoverinfo": "skip", "name": name, "legendgroup": name, "showlegend": False,
        }  # fmt: skip
    yield {
        "x": list(found), "y": [s.mean for s in found.values()], "mode": "lines" + "+markers" * (len(found) < 25),
        "name": name, "legendgroup": name, "showlegend": top, "line": {"color": colour, "width": 1 + top},
        "marker": {"size": 5}, "customdata": [[s.n, s.low, s.high] for s in found.values()],
        "hovertemplate": "%{y:.4g} [%{customdata[1]:.4g}, %{customdata[2]:.4g}], n = %{customdata[0]}",
    }  # fmt: skip


def _across(data: Sequence[dict[str, Any]], epochs: bool) -> dict[str, Any]:
    """Returns the axis of epochs or steps; few epochs are counted one by one."""
    few = epochs and max((x for trace in data for x in trace["x"]), default=0) <= 12
    return axis("epoch" if epochs else "step", **({"dtick": 1} if few else {}))
