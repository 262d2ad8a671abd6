"""The report as one HTML file that fetches nothing."""

from collections.abc import Iterator
from datetime import datetime
from html import escape
from pathlib import Path

from lab.engine.analysis.comparison import COST, Comparison
from lab.engine.analysis.curves import curve_metrics, learning_curves, pruned_curves, saved_epochs
from lab.engine.analysis.hyperparameter_plots import measured, parallel, slices, varied
from lab.engine.analysis.importance import draw_importances, importances
from lab.engine.analysis.pareto import UNITS, pareto_fronts
from lab.engine.analysis.plots import Figure, encode
from lab.engine.analysis.statistics import EXTRA
from lab.engine.analysis.table import cells, header, notes
from lab.engine.analysis.template import POLICY, SCRIPT, STYLE
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import atomic_write


def write_page(comparison: Comparison, path: Path) -> None:
    """Writes the page.

    Raises:
        UserError: when plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(f"report.html needs plotly: {EXTRA}\nthe tables are in {path.parent}") from None
    figures: dict[str, Figure] = {}
    body = "".join(_sections(comparison, figures))
    title = escape(_title(comparison))
    with atomic_write(path) as partial:
        partial.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style></head>'
            f"<body><main><h1>{title}</h1>{_summary(comparison)}{body}</main>\n"
            f'<script type="application/json" id="figures">{encode(figures)}</script>\n'
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
    written = datetime.now().astimezone().strftime("%Y-%m-%d at %H:%M")
    return (
        f"<p>{len(comparison.runs)} runs in {len(comparison.groups)} groups: {counts}.{when}{escape(still)}"
        f" This page was written on {written}.</p>"
    )


def _sections(comparison: Comparison, figures: dict[str, Figure]) -> Iterator[str]:
    """The page's parts; their figures are put into `figures`."""
    points = measured(comparison)
    keys = varied(comparison, points)
    yield _section(
        "table",
        "Results",
        "Runs that differ in nothing but their seed are one row; the first row is the best.",
        _table(comparison),
    )
    yield _curves(comparison, figures)
    if keys:
        figures["parallel"] = parallel(comparison, points)
        yield _section(
            "parallel",
            "Parallel coordinates",
            f"Each line is a run: its place on every axis is its value there, its colour its {comparison.metric}.",
            _plot("parallel", "plot"),
        )
    shares, why = importances(comparison, points)
    told = (
        "How much each key decides whether a run is among the best, by PED-ANOVA; a pruned run counts with what it had"
        " come to."
    )
    if shares:
        figures["importance"] = draw_importances(shares)
    yield _section("importance", "Importance", told, _plot("importance", "plot small") if shares else _absent(why))
    if keys:
        found = slices(comparison, points)
        figures |= {f"slice {key}": one for key, one in found.items()}
        yield _section(
            "slices",
            "Slices",
            "Each varied key by itself against the objective: a point is a run, a cross one that was pruned.",
            _grid([f"slice {key}" for key in found]),
        )
    front = pareto_fronts(comparison)
    figures |= {f"front {name}": one for name, one in front.items()}
    known = ", ".join(UNITS.get(name, name.removeprefix(COST)) for name in front)
    yield _section(
        "cost",
        "Cost against quality",
        f"A point is a group, with its interval; orange are those that no other beats in both ({known})."
        if front
        else "What the quality of each group costs.",
        _grid([f"front {name}" for name in front]) if front else _absent("no cost differs between groups"),
    )
    yield _pruned(comparison, figures)


def _curves(comparison: Comparison, figures: dict[str, Figure]) -> str:
    metrics = curve_metrics(comparison)
    told = "The mean of each group over its completed seeds, and its 95 % interval; the best ten groups are coloured."
    if not metrics:
        return _section("curves", "Learning curves", told, _absent("the runs have no TensorBoard event files"))
    figures |= {f"curve {metric}": learning_curves(comparison, metric) for metric in metrics}
    options = "".join(f'<option value="{escape(f"curve {metric}")}">{escape(metric)}</option>' for metric in metrics)
    choice = f'<label>Figure: <select data-for="curves-plot">{options}</select></label>'
    plot = _plot(f"curve {metrics[0]}", "plot", ' id="curves-plot"')
    return _section("curves", "Learning curves", told, choice + plot)


def _pruned(comparison: Comparison, figures: dict[str, Figure]) -> str:
    title = "Pruned runs"
    number = comparison.statuses.get("pruned", 0)
    if not number:
        return _section("pruned", title, "No run was pruned.", "")
    spent, full = saved_epochs(comparison)
    saved = f" They took {spent:g} epochs instead of {full:g}: {full - spent:g} were saved." if full else ""
    told = f"{number} of {len(comparison.runs)} runs were stopped early, where the crosses are.{saved}"
    drawn = pruned_curves(comparison)
    if drawn is None:
        return _section("pruned", title, told, _absent("the runs have no curve of the objective"))
    figures["pruned"] = drawn
    return _section("pruned", title, told, _plot("pruned", "plot low"))


def _table(comparison: Comparison) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header(comparison))
    rows = []
    for i, row in enumerate(comparison.rows):
        kind = "baseline" if row.group.name == comparison.baseline else ""
        words = "".join(f"<td>{escape(word)}</td>" for word in cells(comparison, row))
        rows.append(f'<tr class="{"best " if i == 0 else ""}{kind}">{words}</tr>')
    said = "".join(f"<li>{escape(note)}</li>" for note in notes(comparison))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll">{table}</div><ul>{said}</ul>'


def _section(name: str, title: str, told: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2><p>{escape(told)}</p>{content}</section>\n'


def _plot(figure: str, classes: str, more: str = "") -> str:
    return f'<div class="{classes}" data-figure="{escape(figure)}"{more}></div>'


def _grid(names: list[str]) -> str:
    return f'<div class="grid">{"".join(_plot(name, "plot small") for name in names)}</div>'


def _absent(why: str) -> str:
    return f"<p>Not shown: {escape(why)}.</p>"
