"""Files that scripts write, whole or not at all, and tables that they show."""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lab.engine.utils.errors import UserError
from lab.engine.utils.files import atomic_write
from lab.engine.utils.names import nearest

Columns = dict[str, list[Any]]  # of equal length, by name


def check_out(given: str, suffixes: Sequence[str], inputs: Iterable[Path]) -> Path:
    """The path that `out=` gives.

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


def write_columns(path: Path, columns: Columns, answers: Sequence[str]) -> None:
    """Writes `columns` as CSV or JSON lines, or as text the `answers` among them alone, by the suffix of `path`."""
    if path.suffix == ".txt":
        columns = {name: columns[name] for name in answers}
    rows = zip(*columns.values(), strict=True)
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        match path.suffix:
            case ".csv":
                csv.writer(file, lineterminator="\n").writerows([list(columns), *rows])
            case ".jsonl":
                for row in rows:
                    finite = (None if isinstance(v, float) and not math.isfinite(v) else v for v in row)
                    file.write(json.dumps(dict(zip(columns, finite, strict=True)), ensure_ascii=False) + "\n")
            case _:
                file.writelines("\t".join(map(str, row)) + "\n" for row in rows)


def show_columns(columns: Columns, title: str, first: int = 10, most: int = 15) -> None:
    """Prints the `first` rows of at most `most` columns, and how many there are."""
    from rich.console import Console
    from rich.table import Table

    shown = list(columns)[:most]
    total = len(columns[shown[0]])
    table = Table(*shown, title=title)
    for row in range(min(first, total)):
        table.add_row(*(_short(columns[name][row]) for name in shown))
    Console().print(table)
    if total > first or len(columns) > len(shown):
        print(f"{total:,} rows of {len(columns)} columns in all: out=FILE.csv, .jsonl or .txt writes them")


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
