"""What a comparison leaves in a folder."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lab.engine.analysis.columns import text
from lab.engine.analysis.comparison import Comparison
from lab.engine.analysis.table import latex, markdown
from lab.engine.utils.files import atomic_write

CURVES = ("group", "run", "seed", "status", "metric", "step", "epoch", "value")


def write_tables(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes table.csv, runs.csv, table.md and table.tex: their paths."""
    paths = [folder / name for name in ("table.csv", "runs.csv", "table.md", "table.tex")]
    write_csv(paths[0], *_table(comparison))
    write_csv(paths[1], *_runs(comparison))
    for path, content in ((paths[2], markdown(comparison)), (paths[3], latex(comparison))):
        with atomic_write(path) as partial:
            partial.write_text(content, encoding="utf-8")
    return paths


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows under the `names` of their columns; None becomes nothing, a number keeps all its digits."""
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def _table(comparison: Comparison) -> tuple[list[str], list[list[Any]]]:
    """A row a group, with everything that is known of it."""
    statuses = list(comparison.statuses)
    names = ["group", *comparison.keys, *statuses]
    for metric in comparison.metrics:
        names += [f"{metric} {what}" for what in ("n", "mean", "sd", "low", "high")]
    names += [
        f"{comparison.metric} so far",
        *comparison.costs,
        "baseline",
        "difference",
        "pairs",
        "p",
        "p holm",
        "note",
    ]
    rows = []
    for row in comparison.rows:
        found: list[Any] = [row.group.name, *(text(row.group.keys.get(key, "")) for key in comparison.keys)]
        found += [row.group.statuses.get(status, 0) for status in statuses]
        for metric in comparison.metrics:
            summary = row.summaries[metric]
            found += [summary.n, summary.mean, summary.sd, summary.low, summary.high]
        found += [row.so_far, *(row.costs.get(name) for name in comparison.costs), comparison.baseline]
        test = row.against
        found += [test.difference, test.n, test.p, test.adjusted, test.note] if test else [None] * 5
        rows.append(found)
    return names, rows


def _runs(comparison: Comparison) -> tuple[list[str], list[list[Any]]]:
    """A row a run. `counts` is no for a run that is in no mean: it did not complete, or its seed ran again."""
    figures = [*comparison.metrics, *comparison.costs]
    names = ["group", "run", "directory", "seed", "status", "counts", *comparison.keys, *figures]
    rows = [
        [
            row.group.name,
            run.name,
            run.dir,
            run.seed,
            run.status,
            "yes" if run in row.group.completed else "no",
            *(text(row.group.keys.get(key, "")) for key in comparison.keys),
            *(run.metrics.get(name) for name in figures),
        ]
        for row in comparison.rows
        for run in row.group.runs
    ]
    return names, rows
