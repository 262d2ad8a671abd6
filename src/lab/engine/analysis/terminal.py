"""Prints tables on the terminal."""

from collections.abc import Iterable, Sequence

from rich.console import Console

from lab.engine.analysis.comparison import Comparison
from lab.engine.analysis.table import notes, text_rows
from lab.engine.utils.tables import fit_table

MOST = 40  # rows; of more the best


def show(comparison: Comparison) -> None:
    """Prints the table, the best row first and bold, with as many columns as fit; the main metric and its test always,
    with folded names if they do not fit.
    """
    console, (names, *rows) = Console(), text_rows(comparison)
    title = f"{len(comparison.runs)} runs: {comparison.counts}"
    kept = [row for i, row in enumerate(rows) if i < MOST or row[0] == comparison.baseline]
    least = 8 if comparison.baseline else 5  # name, runs, mean, sd, interval; difference, p, pairs
    table = fit_table(title, names, kept, least)
    for column in table.columns[1:]:
        column.justify = "right"
    table.rows[0].style = "bold"
    console.print(table)
    if len(table.columns) < len(names):
        print("A wider terminal shows more columns, and out=FOLDER writes all.")
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept)} more rows: out=FOLDER writes them all.")
    print(*notes(comparison), sep="\n")


def show_pairs(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a small table under a title; nothing where it has no rows."""
    if found := [*rows]:
        Console().print(fit_table(title, names, found))
