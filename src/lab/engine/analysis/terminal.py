"""Prints tables on the terminal."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from lab.engine.analysis.comparison import Comparison
from lab.engine.analysis.table import notes, one_line, text_rows

MOST = 40  # rows; of more the best


def show(comparison: Comparison) -> None:
    """Prints the table, the best row first and bold, with as many columns as fit; the main metric and its test always,
    with folded names if they do not fit.
    """
    console, (names, *rows) = Console(), text_rows(comparison)
    title = f"{len(comparison.runs)} runs: {comparison.counts}"
    kept = [row for i, row in enumerate(rows) if i < MOST or row[0] == comparison.baseline]
    least = 8 if comparison.baseline else 5  # name, runs, mean, sd, interval; difference, p, pairs
    room = console.options.update(width=10_000)
    for width in range(len(names), least - 1, -1):
        table = _table(title, names[:width], [row[:width] for row in kept])
        if console.measure(table, options=room).maximum <= console.width:
            break
    for column in table.columns[1:]:
        column.justify = "right"
    table.rows[0].style = "bold"
    console.print(table)
    if width < len(names):
        print("A wider terminal shows more columns, and out=FOLDER writes all.")
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept)} more rows: out=FOLDER writes them all.")
    print(*notes(comparison), sep="\n")


def show_pairs(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a small table under a title; nothing where it has no rows."""
    if (table := _table(title, names, rows)).row_count:
        Console().print(table)


def _table(title: str, names: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    # Text, since rich would read square brackets as markup
    columns = (Column(Text(one_line(name)), overflow="fold") for name in names)
    table = Table(*columns, title=Text(one_line(title)), title_justify="left", box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(Text(one_line(word)) for word in row))
    return table
