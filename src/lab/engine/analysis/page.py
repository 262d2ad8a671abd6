"""Writes the report as one HTML file that fetches nothing: report.html, filled in. Needs the extra `report`."""

from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.io.json import to_json_plotly  # type: ignore[import-untyped]
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from lab.engine.analysis.comparison import COST, Comparison
from lab.engine.analysis.curves import curve_metrics, saved_epochs
from lab.engine.analysis.hyperparameter_plots import UNITS, importances, make_study, parallel, pareto_fronts, slices
from lab.engine.analysis.plots import Figure, learning_curves, pruned_curves
from lab.engine.analysis.table import notes, words
from lab.engine.utils.files import atomic_write


def write_page(comparison: Comparison, path: Path) -> None:
    """Writes the page."""
    study, runs = make_study(comparison), comparison.runs
    curves = {f"curve {metric}": learning_curves(comparison, metric) for metric in curve_metrics(comparison)}
    by_key = {f"slice {key}": figure for key, figure in slices(study, comparison.metric).items()}
    fronts = {f"front {name}": figure for name, figure in pareto_fronts(comparison).items()}
    figures: dict[str, Figure] = curves | by_key | fronts
    if by_key:
        figures["parallel"] = parallel(study, comparison.metric)
    if not isinstance(importance := importances(study, comparison.metric), str):
        figures["importance"] = importance
    if pruned := pruned_curves(comparison):
        figures["pruned"] = pruned

    sweeps = {run.dir.parent.name if run.sweep or run.dir.name.isdecimal() else None for run in runs}
    sweep = sweeps.pop() if len(sweeps) == 1 else None
    begun = sorted(str(run.record["started"]) for run in runs if "started" in run.record)
    names, *rows = words(comparison)
    costs = [name.removeprefix("front ") for name in fronts]
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    page = templates.get_template("report.html").render(
        title=f"Sweep {sweep}" if sweep else f"{len(runs)} runs compared",
        begun=begun[0][:16].replace("T", " at ") if begun else "",
        going=sorted({run.dir.parent.name for run in runs if run.sweep.get("status") == "running"}),
        written=f"{datetime.now():%Y-%m-%d at %H:%M}",
        comparison=comparison,
        names=names,
        rows=rows,
        notes=notes(comparison),
        curves=[*curves],
        slices=[*by_key],
        no_importance=importance if isinstance(importance, str) else "",
        fronts=[*fronts],
        costs=[UNITS.get(name, name.removeprefix(COST)) for name in costs],
        saved_epochs=saved_epochs(comparison),
        figures=figures,
        json=to_json_plotly(figures, engine="json"),
        plotly=get_plotlyjs(),
    )
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
