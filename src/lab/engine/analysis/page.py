"""Writes the report as one HTML file that fetches nothing. Needs the extra `report`."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from html import escape
from pathlib import Path

from plotly.io.json import to_json_plotly  # type: ignore[import-untyped]
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from lab.engine.analysis.comparison import COST, Comparison
from lab.engine.analysis.curves import curve_metrics, saved_epochs
from lab.engine.analysis.hyperparameter_plots import (
    UNITS,
    importances,
    make_study,
    parallel,
    pareto_fronts,
    slices,
    varied,
)
from lab.engine.analysis.plots import TEMPLATE, Figure, learning_curves, pruned_curves
from lab.engine.analysis.table import notes, words
from lab.engine.analysis.template import POLICY, SCRIPT, STYLE
from lab.engine.utils.files import atomic_write

Section = tuple[str, str, str, dict[str, Figure] | str]  # id, title, what it says, figures by name or HTML


def write_page(comparison: Comparison, path: Path) -> None:
    """Writes the page."""
    body, figures = "", dict[str, Figure]()
    for name, title, told, content in _sections(comparison):
        if not isinstance(content, str):
            figures |= content
            content = _places(name, content)
        body += f'<section id="{name}"><h2>{title}</h2><p>{escape(told)}</p>{content}</section>\n'
    for figure in figures.values():
        figure["layout"].update(template=TEMPLATE, title=None, plot_bgcolor=None)
    title = escape(_title(comparison))
    with atomic_write(path) as partial:
        partial.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style></head>'
            f"<body><main><h1>{title}</h1><p>{escape(_summary(comparison))}</p>{body}</main>\n"
            f'<script type="application/json" id="figures">{to_json_plotly(figures, engine="json")}</script>\n'
            f"<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script></body></html>\n",
            encoding="utf-8",
        )


def _title(comparison: Comparison) -> str:
    sweeps = {run.dir.parent.name if run.sweep or run.dir.name.isdecimal() else None for run in comparison.runs}
    [only] = sweeps if len(sweeps) == 1 else [None]
    return f"Sweep {only}" if only else f"{len(comparison.runs)} runs compared"


def _summary(comparison: Comparison) -> str:
    counts = ", ".join(f"{number} {status}" for status, number in comparison.statuses.items())
    begun = sorted(str(run.record["started"]) for run in comparison.runs if "started" in run.record)
    when = f" The first began on {begun[0][:16].replace('T', ' at ')}." if begun else ""
    going = {run.dir.parent.name for run in comparison.runs if run.sweep.get("status") == "running"}
    still = f" Still going on: {', '.join(sorted(going))}." if going else ""
    written = f"{datetime.now():%Y-%m-%d at %H:%M}"
    groups = f"{len(comparison.runs)} runs in {len(comparison.groups)} groups: {counts}."
    return f"{groups}{when}{still} This page was written on {written}."


def _sections(comparison: Comparison) -> Iterator[Section]:
    """Yields the page's parts from top to bottom."""
    metric, study = comparison.metric, make_study(comparison)
    told = "Runs that differ in nothing but their seed are one row; the first row is the best."
    yield "table", "Results", told, _table(comparison)

    told = "The mean of each group over its completed seeds, and its 95 % interval; the best ten groups are coloured."
    curves: dict[str, Figure] = {
        f"curve {name}": learning_curves(comparison, name) for name in curve_metrics(comparison)
    }
    yield "curves", "Learning curves", told, curves or _absent("the runs have no TensorBoard event files")

    if varied(study):
        told = f"Each line is a run: its place on every axis is its value there, its colour its {metric}."
        yield "parallel", "Parallel coordinates", told, {"parallel": parallel(study, metric)}

    told = (
        "How much each key decides whether a run is among the best, by PED-ANOVA; a pruned run counts with what it had"
    )
    shares = importances(study, metric)
    shown = _absent(shares) if isinstance(shares, str) else {"importance": shares}
    yield "importance", "Importance", f"{told} come to.", shown

    if varied(study):
        told = "Each varied key by itself against the objective: a point is a run, a cross one that was pruned."
        yield "slices", "Slices", told, {f"slice {key}": figure for key, figure in slices(study, metric).items()}

    fronts = pareto_fronts(comparison)
    known = ", ".join(UNITS.get(name, name.removeprefix(COST)) for name in fronts)
    told = f"A point is a group, with its interval; orange are those that no other beats in both ({known})."
    front = {f"front {name}": figure for name, figure in fronts.items()}
    if not front:
        told = "What the quality of each group costs."
    yield "cost", "Cost against quality", told, front or _absent("no cost differs between groups")

    title, number = "Pruned runs", comparison.statuses.get("pruned", 0)
    if not number:
        yield "pruned", title, "No run was pruned.", ""
        return
    spent, full = saved_epochs(comparison)
    saved = f" They took {spent:g} epochs instead of {full:g}: {full - spent:g} were saved." if full else ""
    told = f"{number} of {len(comparison.runs)} runs were stopped early, where the crosses are.{saved}"
    drawn = pruned_curves(comparison)
    yield "pruned", title, told, {"pruned": drawn} if drawn else _absent("the runs have no curve of the objective")


def _table(comparison: Comparison) -> str:
    names, *rows = ([escape(word) for word in row] for row in words(comparison))
    body = ""
    for i, row in enumerate(rows):
        classes = "best " * (i == 0) + "baseline" * (comparison.rows[i].group.name == comparison.baseline)
        body += f'<tr class="{classes}"><td>{"</td><td>".join(row)}</td></tr>'
    head = f"<thead><tr><th>{'</th><th>'.join(names)}</th></tr></thead>"
    said = "".join(f"<li>{escape(note)}</li>" for note in notes(comparison))
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div><ul>{said}</ul>'


def _places(section: str, names: Iterable[str]) -> str:
    """Returns where the figures of a section are drawn; of several curves one at a time, which is chosen."""
    places = [f'<div class="plot" data-figure="{escape(name)}"></div>' for name in names]
    if section == "curves":
        options = "".join(f'<option value="{escape(name)}">{escape(name[6:])}</option>' for name in names)
        return f"<label>Figure: <select>{options}</select></label>{places[0]}"
    return f'<div class="grid">{"".join(places)}</div>' if section in ("slices", "cost") else places[0]


def _absent(why: str) -> str:
    return f"<p>Not shown: {escape(why)}.</p>"
