"""Prints tables on the terminal."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.engine.analysis.comparison import Comparison
from lab.engine.analysis.table import notes, words

MOST = 40  # rows; of more the best
LAYOUTS: list[tuple[int | None, bool]] = [(None, True), (None, False), (1, False)]  # figures and costs, widest first


def show(comparison: Comparison) -> None:
    """Prints the table, the best row first and bold, with as many columns as there is room for."""
    console = Console()
    for layout in LAYOUTS:
        table = _table(comparison, *layout)
        if console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width:
            break
    console.print(table)
    if layout != LAYOUTS[0]:
        print("A wider terminal shows more columns, and out=FOLDER writes all.")
    if table.row_count < len(comparison.rows):
        print(f"{len(comparison.rows) - table.row_count} more rows: out=FOLDER writes them all.")
    print(*notes(comparison), sep="\n")


def show_pairs(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a small table under a title; nothing where it has no rows."""
    table = Table(*names, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(Text, row))  # Text, since rich would read square brackets as markup
    if table.row_count:
        Console().print(table)


def _table(comparison: Comparison, figures: int | None, costs: bool) -> Table:
    counts = ", ".join(f"{number} {status}" for status, number in comparison.statuses.items())
    table = Table(title=f"{len(comparison.runs)} runs: {counts}", title_justify="left", box=box.SIMPLE_HEAD)
    names, *rows = words(comparison, figures, costs)
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for i, row in enumerate(rows):
        if i < MOST or row[0] == comparison.baseline:
            table.add_row(*map(Text, row), style="bold" if i == 0 else "")
    return table
