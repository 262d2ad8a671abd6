"""Writes the tables of a comparison as files."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab.engine.analysis.comparison import Comparison, Row
from lab.engine.analysis.curves import CURVES, curve_rows
from lab.engine.analysis.run_record import RunRecord
from lab.engine.analysis.table import latex, markdown
from lab.engine.utils.escape import spreadsheet_cell
from lab.engine.utils.files import atomic_write


def write_tables(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes table.csv, runs.csv, curves.csv, table.md and table.tex, and returns their paths."""
    names = ("table.csv", "runs.csv", "curves.csv", "table.md", "table.tex")
    table, runs, curves, *texts = paths = [folder / name for name in names]
    found = [_run(comparison, row, run) for row in comparison.rows for run in row.group.runs]
    _write_csv(table, comparison.rows[0].values, (row.values.values() for row in comparison.rows))
    _write_csv(runs, found[0], (run.values() for run in found))
    _write_csv(curves, CURVES, curve_rows(comparison))
    for path, content in zip(texts, (markdown(comparison), latex(comparison)), strict=True):
        with atomic_write(path) as partial:
            partial.write_text(content, encoding="utf-8")
    return paths


def _write_csv(path: Path, names: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Writes rows as CSV under the column `names`; None becomes an empty cell, a number keeps all digits."""
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for row in (names, *rows):
            writer.writerow(map(spreadsheet_cell, row))


def _run(comparison: Comparison, row: Row, run: RunRecord) -> dict[str, Any]:
    """Returns the row of a run in runs.csv. `counts` is `no` for a run outside the means: not completed or repeated."""
    counts = "yes" if run in row.group.completed else "no"
    found = {"group": row.group.name, "run": run.name, "directory": run.dir, "seed": run.seed, "status": run.status}
    found |= {"counts": counts} | {key: row.values[key] for key in comparison.keys if key not in found}
    return found | {name: run.metrics.get(name) for name in (*comparison.metrics, *comparison.costs)}
