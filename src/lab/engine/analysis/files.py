"""Writes what a comparison leaves in a folder beside its page."""

import csv
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lab.engine.analysis.columns import text
from lab.engine.analysis.comparison import Comparison, Row
from lab.engine.analysis.curves import CURVES, curve_rows
from lab.engine.analysis.recorded import Recorded
from lab.engine.analysis.table import latex, markdown
from lab.engine.utils.files import atomic_write

Cells = list[tuple[str, Any]]  # of one row: a column's name, and what is in it


def write_tables(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes table.csv, runs.csv, curves.csv, table.md and table.tex, and returns their paths."""
    names = ("table.csv", "runs.csv", "curves.csv", "table.md", "table.tex")
    table, runs, curves, *texts = paths = [folder / name for name in names]
    _write_cells(table, [_group(comparison, row) for row in comparison.rows])
    _write_cells(runs, [_run(comparison, row, run) for row in comparison.rows for run in row.group.runs])
    _write_csv(curves, CURVES, curve_rows(comparison))
    for path, content in zip(texts, (markdown(comparison), latex(comparison)), strict=True):
        with atomic_write(path) as partial:
            partial.write_text(content, encoding="utf-8")
    return paths


def _write_cells(path: Path, rows: Sequence[Cells]) -> None:
    _write_csv(path, [name for name, _ in rows[0]], ([value for _, value in row] for row in rows))


def _write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows under the `names` of their columns; None becomes nothing, a number keeps all its digits."""
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(chain([names], rows))


def _group(comparison: Comparison, row: Row) -> Cells:
    """Returns everything that is known of a group."""
    found: Cells = [("group", row.group.name), *_keys(comparison, row)]
    found += [(status, row.group.statuses.get(status, 0)) for status in comparison.statuses]
    for metric in comparison.metrics:
        for what in ("n", "mean", "sd", "low", "high"):
            found.append((f"{metric} {what}", getattr(row.summaries[metric], what)))
    found += [(f"{comparison.metric} so far", row.so_far), *((name, row.costs.get(name)) for name in comparison.costs)]
    test = row.against
    found += [("baseline", comparison.baseline), ("difference", test and test.difference), ("pairs", test and test.n)]
    found += [("p", test and test.p), ("p holm", test and test.adjusted), ("note", test and test.note)]
    return found


def _run(comparison: Comparison, row: Row, run: Recorded) -> Cells:
    """Returns a run. `counts` is no where it is in no mean: it did not complete, or its seed ran again."""
    counts = "yes" if run in row.group.completed else "no"
    found: Cells = [("group", row.group.name), ("run", run.name), ("directory", run.dir), ("seed", run.seed)]
    found += [("status", run.status), ("counts", counts), *_keys(comparison, row)]
    return found + [(name, run.metrics.get(name)) for name in (*comparison.metrics, *comparison.costs)]


def _keys(comparison: Comparison, row: Row) -> Cells:
    return [(key, text(row.group.keys.get(key, ""))) for key in comparison.keys]
