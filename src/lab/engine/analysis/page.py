"""Writes the report as one HTML file that loads nothing from elsewhere. Needs the extra `report`."""

from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.io.json import to_json_plotly  # type: ignore[import-untyped]
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from lab.engine.analysis.comparison import Comparison
from lab.engine.analysis.curves import curve_metrics, saved_epochs
from lab.engine.analysis.hyperparameter_plots import UNITS, importances, make_study, parallel, pareto_fronts, slices
from lab.engine.analysis.plots import Figure, learning_curves, pruned_curves
from lab.engine.analysis.table import notes, text_rows
from lab.engine.utils.files import atomic_write


def write_page(comparison: Comparison, path: Path) -> None:
    """Writes the page."""
    study, metric, runs = make_study(comparison), comparison.metric, comparison.runs
    by_key, importance, pruned = slices(study, metric), importances(study, metric), pruned_curves(comparison)
    sections: dict[str, dict[str, Figure]] = {
        "curves": {f"curve {name}": learning_curves(comparison, name) for name in curve_metrics(comparison)},
        "parallel": {"parallel": parallel(study, metric)} if by_key else {},
        "importance": {} if isinstance(importance, str) else {"importance": importance},
        "slices": {f"slice {key}": figure for key, figure in by_key.items()},
        "cost": {f"front {name}": figure for name, figure in pareto_fronts(comparison).items()},
        "pruned": {"pruned": pruned} if pruned else {},
    }
    figures = {name: figure for section in sections.values() for name, figure in section.items()}
    sweeps = {run.dir.parent.name if run.sweep or run.dir.name.isdecimal() else None for run in runs}
    sweep = sweeps.pop() if len(sweeps) == 1 else None
    begun = sorted(str(run.metadata["started"]) for run in runs if "started" in run.metadata)
    names, *rows = text_rows(comparison)
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
        sections=sections,
        importance=importance,
        units=UNITS,
        saved_epochs=saved_epochs(comparison),
        json=to_json_plotly(figures, engine="json"),
        plotly=get_plotlyjs(),
    )
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
