"""Checks where `out=` points, and writes and shows tables of predictions. Loads neither torch nor polars."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from lab.engine.utils.errors import UserError
from lab.engine.utils.escape import spreadsheet_cell
from lab.engine.utils.files import atomic_write
from lab.engine.utils.names import nearest
from lab.engine.utils.tables import fit_table

if TYPE_CHECKING:
    import polars


def check_out(given: str, suffixes: Sequence[str], inputs: Iterable[Path] = ()) -> Path:
    """Checks the path that `out=` gives, and returns it.

    Raises:
        UserError: for a suffix not among `suffixes`, a folder that is not there, or a file among `inputs`.
    """
    path = Path(given)
    if path.suffix not in suffixes:
        raise UserError(
            f"out={given}: {path.suffix or 'no suffix'} is not written here{nearest(path.suffix, suffixes)}\n"
            f"its suffix says what is written: {', '.join(suffixes)}"
        )
    if path.is_dir():
        raise UserError(f"out={given} is a folder: give a file in it")
    if not path.parent.is_dir():
        beside = path.parent.parent.glob("*/") if path.parent.parent.is_dir() else []
        raise UserError(f"out={given}: no such folder {path.parent}{nearest(str(path.parent), map(str, beside))}")
    if path.exists() and any(other.exists() and path.samefile(other) for other in inputs):
        raise UserError(f"out={given} is what is read: give another name")
    return path


def write_table(path: Path, table: "polars.DataFrame", main_columns: Sequence[str]) -> None:
    """Writes a table as CSV or JSON lines, or its `main_columns` alone as text, by the suffix of `path`.

    What is no finite number is null in JSON. CSV and text hold lists as Python writes them, and in CSV a text that a
    spreadsheet would take for a formula begins with a `'`.
    """
    import polars

    with atomic_write(path) as partial:
        if path.suffix == ".jsonl":
            table.write_ndjson(partial)
            return
        nested = [name for name, dtype in table.schema.items() if dtype.is_nested()]
        table = table.with_columns(polars.Series(name, map(str, table[name].to_list())) for name in nested)
        if path.suffix == ".csv":
            texts = [column for column in table if column.dtype == polars.String]
            table = table.with_columns(polars.Series(c.name, map(spreadsheet_cell, c), polars.String) for c in texts)
            table.rename(spreadsheet_cell).write_csv(partial)
        else:
            table.select(main_columns).write_csv(partial, include_header=False, separator="\t", quote_style="never")


def show_table(table: "polars.DataFrame", title: str, main_columns: Sequence[str]) -> None:
    """Prints the first ten rows with as many columns as fit, the `main_columns` first, and how many there are."""
    from rich.console import Console

    names = list(dict.fromkeys([table.columns[0], *main_columns, *table.columns]))
    rows = [[*map(_cell, row)] for row in table.select(names).head(10).iter_rows()]
    Console().print(fit_table(title, names, rows, least=2))
    print(f"{len(table):,} rows of {table.width} columns in all: out=FILE.csv, .jsonl or .txt writes them")


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return shorten(text, 60, placeholder="…") if len(text) > 60 else text
