"""Lays out tables for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab.engine.utils.escape import printable

if TYPE_CHECKING:
    from rich.table import Table


def fit_table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]], least: int | None = None) -> "Table":
    """Returns a table with as many whole columns as the terminal is wide, from the left.

    Args:
        title: above it.
        names: of the columns, the important ones first.
        rows: a word for each column.
        least: number of columns to show in any case, with folded words if they do not fit; None for all.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    def cell(word: str) -> Text:  # Text, since rich would read square brackets as markup
        return Text(printable(word, keep=""))

    console = Console()
    room = console.options.update(width=10_000)
    for width in range(len(names), min(least or len(names), len(names)) - 1, -1):
        columns = [Column(cell(name), overflow="fold") for name in names[:width]]
        table = Table(*columns, title=cell(title), title_justify="left", box=SIMPLE_HEAD)
        for row in rows:
            table.add_row(*map(cell, row[:width]))
        if console.measure(table, options=room).maximum <= console.width:
            break
    return table
