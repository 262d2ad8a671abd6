"""Figures of what was varied: every run as a line across the keys, and each key by itself against the objective."""

import math
from typing import Any

from lab.engine.analysis.columns import text
from lab.engine.analysis.comparison import Comparison
from lab.engine.analysis.plots import GREY, PALETTE, SCALE, Figure, axis, figure, is_wide, plain, shade
from lab.engine.analysis.recorded import Recorded
from lab.engine.runs.run import FINISHED

MOST_LINES = 300  # of more runs the best

Point = tuple[Recorded, dict[str, Any], float]  # a run, its values at the keys, its figure


def measured(comparison: Comparison) -> list[Point]:
    """The runs that have ended with a finite figure, the best first."""
    found = [
        (run, group.keys, run.metrics[comparison.metric])
        for group in comparison.groups
        for run in group.runs
        if run.status in FINISHED and math.isfinite(run.metrics.get(comparison.metric, math.nan))
    ]
    return sorted(found, key=lambda point: comparison.sign * point[2])


def varied(comparison: Comparison, points: list[Point]) -> list[str]:
    """The keys that have several values."""
    return [key for key in comparison.keys if len({text(values[key]) for _, values, _ in points if key in values}) > 1]


def is_numeric(key: str, points: list[Point]) -> bool:
    """Whether a key holds numbers wherever it is."""
    return all(
        isinstance(values[key], int | float) and not isinstance(values[key], bool)
        for _, values, _ in points
        if key in values
    )


def parallel(comparison: Comparison, points: list[Point]) -> Figure:
    """A line a run: its place on each key's own scale, and on that of the objective, which colours it."""
    keys = varied(comparison, points)
    drawn = points[:MOST_LINES]
    places, ticks = [], []  # of each axis: heights by run, labels by height
    for key in keys:
        heights, labels = _scale([values.get(key) if key in values else None for _, values, _ in drawn], key, drawn)
        places.append(heights)
        ticks.append(labels)
    heights, labels = _scale([value for *_, value in drawn], None, drawn)
    places.append(heights)
    ticks.append(labels)
    best = heights if comparison.mode == "max" else [1 - h if h is not None else None for h in heights]
    data: list[dict[str, Any]] = []
    names = [plain(key) for key in (*keys, comparison.metric)]
    for i in reversed(range(len(drawn))):  # the best on top
        run, values, value = drawn[i]
        data.append(
            {
                "type": "scatter", "mode": "lines+markers", "showlegend": False, "name": plain(run.name),
                "x": list(range(len(names))), "y": [place[i] for place in places], "opacity": 0.75,
                "text": [plain(text(values[key])) if key in values else "" for key in keys] + [f"{value:.6g}"],
                "line": {"color": shade(best[i] or 0.0), "width": 1.6}, "marker": {"size": 5}, "customdata": names,
                "hovertemplate": "%{customdata}: %{text}",
            }
        )  # fmt: skip
    data.append(_colour_bar(comparison, [value for *_, value in drawn]))
    marks = [
        {
            "x": x, "y": y, "text": plain(label), "showarrow": False,
            "xanchor": "right" if x == len(names) - 1 else "left", "xshift": -7 if x == len(names) - 1 else 7,
            "font": {"size": 11}, "bgcolor": "veil",
        }
        for x, labels in enumerate(ticks) for y, label in labels
    ]  # fmt: skip
    across = {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.15, len(names) - 0.85]}
    upright = {"visible": False, "range": [-0.06, 1.06]}
    return figure(data, across | {"showgrid": True, "zeroline": False}, upright, annotations=marks, hovermode="closest")


def slices(comparison: Comparison, points: list[Point]) -> dict[str, Figure]:
    """Each key against the objective, a point a run; what was pruned is a cross."""
    found = {}
    for key in varied(comparison, points):
        numeric = is_numeric(key, points)
        data = []
        for status, symbol, colour in (("pruned", "x", GREY), ("completed", "circle", PALETTE[0])):
            shown = [p for p in points if p[0].status == status and key in p[1]]
            if shown:
                data.append(
                    {
                        "type": "scatter", "mode": "markers", "name": status, "showlegend": False,
                        "x": [values[key] if numeric else plain(text(values[key])) for _, values, _ in shown],
                        "y": [value for *_, value in shown], "text": [plain(run.name) for run, *_ in shown],
                        "marker": {"symbol": symbol, "size": 8, "color": colour, "opacity": 0.75},
                        "hovertemplate": "%{x}: %{y:.4g}<br>%{text}",
                    }
                )  # fmt: skip
        kind = "category"
        if numeric:
            kind = "log" if is_wide([values[key] for _, values, _ in points if key in values]) else "linear"
        x = axis(key, type=kind)
        if kind == "log":
            ticks = sorted({values[key] for _, values, _ in points if key in values})
            x |= {"tickvals": ticks} if len(ticks) <= 8 else {"dtick": 1, "tickformat": "~g"}
        if kind == "category":  # in the order of their best run
            x["categoryarray"] = list(dict.fromkeys(plain(text(v[key])) for _, v, _ in points if key in v))
        found[key] = figure(data, x, axis(comparison.metric))
    return found


def _scale(
    values: list[Any], key: str | None, points: list[Point]
) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Heights from 0 to 1 of `values`, None where a run has none, and the labels to write beside the axis."""
    known = [value for value in values if value is not None]
    if key is None or is_numeric(key, points):
        wide = key is not None and is_wide(known)
        numbers = [math.log(value) if wide else float(value) for value in known]
        low, high = min(numbers), max(numbers)
        span = (high - low) or 1.0

        def height(value: float) -> float:
            return ((math.log(value) if wide else value) - low) / span

        ends = sorted(set(known))
        labels = ends if len(ends) <= 6 else [ends[0], ends[-1]]
        return [None if v is None else height(v) for v in values], [(height(v), f"{v:.4g}") for v in labels]
    names = sorted({text(value) for value in known})
    last = max(len(names) - 1, 1)
    places = {name: i / last for i, name in enumerate(names)}
    return [None if v is None else places[text(v)] for v in values], [(place, name) for name, place in places.items()]


def _colour_bar(comparison: Comparison, values: list[float]) -> dict[str, Any]:
    colours = [[i / (len(SCALE) - 1), colour] for i, colour in enumerate(SCALE)]
    marker = {
        "colorscale": colours, "showscale": True, "cmin": min(values), "cmax": max(values), "color": [min(values)],
        "reversescale": comparison.mode == "min", "size": 0.1, "colorbar": {"thickness": 12, "outlinewidth": 0},
    }  # fmt: skip
    return {
        "type": "scatter", "mode": "markers", "x": [0], "y": [0], "marker": marker, "hoverinfo": "skip",
        "showlegend": False,
    }  # fmt: skip
