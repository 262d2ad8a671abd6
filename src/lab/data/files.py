"""Reads a CSV file as numbers; without torch, so that what is wrong with a file is told at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lab.data.frames import check_columns, read_frame
from lab.engine.utils.errors import UserError

Task = Literal["auto", "classification", "regression"]
MOST_WORDS = 50  # different words of a column that is one-hot encoded
MOST_INTEGERS = 20  # different whole numbers that task=auto still takes for classes


# A column of a file: its name; its kind, numbers, booleans or words; the words that it may hold. Plain, for checkpoints
Source = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """What a file holds. N rows, D features.

    Args:
        sources: the columns that the features come from, in order.
        features: (N, D) float64, NaN where missing.
        classes: their names; None where the target is a value.
        target: (N,) int64, -1 where missing, with classes; else float64, NaN where missing.
    """

    sources: list[Source]
    features: NDArray[np.float64]
    classes: list[str] | None
    target: NDArray[np.int64] | NDArray[np.float64]

    @property
    def columns(self) -> list[str]:
        """Names of the features; a column `size` of words becomes `size=large`, `size=small`, one for each."""
        return names(self.sources)


def names(sources: Sequence[Source]) -> list[str]:
    """Names of the features that `sources` make."""
    return [
        f"{s['name']}={word}" if s["kind"] == "words" else s["name"] for s in sources for word in s.get("words", [""])
    ]


def dims(path: Any, target: Any, task: Task, drop: Sequence[Any]) -> dict[str, int]:
    """Returns the `dims` of a file: how many `features`, and how many `classes` or `targets`; see `read_table`."""
    file = Path(str(path))
    changed = file.stat().st_mtime_ns if file.is_file() else 0
    return dict(_dims(str(path), changed, str(target), task, tuple(str(name) for name in drop)))


@cache
def _dims(path: str, changed: int, target: str, task: Task, drop: tuple[str, ...]) -> dict[str, int]:
    table = read_table(path, target, task, drop)
    outputs = {"targets": 1} if table.classes is None else {"classes": len(table.classes)}
    return {"features": len(table.columns), **outputs}


def read_table(path: str, target: str, task: Task = "auto", drop: Sequence[str] = ()) -> Table:
    """Reads a CSV file with a header: separated by commas, semicolons or tabs, whichever its header has most of.

    Numbers stay, booleans become 0 and 1, a column of words becomes one column of 0 and 1 for each of them, in sorted
    order. A missing word is missing in each of these. Columns without any value are left out.

    Args:
        path: of the file.
        target: name of the column to predict.
        task: `classification`, `regression`, or `auto`: classification for words, booleans and whole numbers with at
            most 20 different values.
        drop: names of the columns to leave out.

    Raises:
        UserError: when the file is not there, cannot be read, or holds nothing to learn from.
    """
    frame = read_frame(Path(path))
    name = Path(path).name
    for key, column in [("target", target), *(("drop", column) for column in drop)]:
        check_columns(frame.columns, column, name, f"data.{key}")
    if target in drop:
        raise UserError(f"data.drop={list(drop)}: {target} is the target; take it off the list")
    classes, values = _target(frame[target], task, name)
    sources = [source for column in frame.drop(target, *drop) if (source := _source(column, drop, name))]
    if not sources:
        raise UserError(f"{name} has no column to learn from besides the target {target} and data.drop={list(drop)}")
    return Table(sources, features(frame, sources), classes, values)


def _numbers(column: pl.Series) -> NDArray[np.float64]:
    values = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def _source(column: pl.Series, drop: Sequence[str], name: str) -> Source | None:
    """What `column` holds; None where it holds nothing."""
    if column.dtype != pl.String:
        kind = "booleans" if column.dtype == pl.Boolean else "numbers"
        return None if np.isnan(_numbers(column)).all() else {"name": column.name, "kind": kind}
    words = column.drop_nulls().unique().sort().to_list()
    if len(words) > MOST_WORDS:
        dropped = [n if n.isidentifier() else f'"{n}"' for n in (*drop, column.name)]  # Hydra wants others quoted
        raise UserError(
            f"column {column.name} of {name} holds {len(words)} different words, such as {words[0]!r}; at most"
            f" {MOST_WORDS} become features\nleave it out: 'data.drop=[{','.join(dropped)}]'"
        )
    return {"name": column.name, "kind": "words", "words": words} if words else None


def features(frame: pl.DataFrame, sources: Sequence[Source]) -> NDArray[np.float64]:
    """The features (N, D) that the columns `sources` of `frame` make, NaN where missing."""
    found = []
    for source in sources:
        column = frame[source["name"]]
        found += [_numbers(column == word) for word in source["words"]] if "words" in source else [_numbers(column)]
    return np.stack(found, 1)


def _target(
    column: pl.Series, task: Task, name: str
) -> tuple[list[str] | None, NDArray[np.int64] | NDArray[np.float64]]:
    """The classes and targets of a table, see `Table`."""
    known = column.drop_nulls()
    if column.dtype.is_float():
        known = known.filter(known.is_finite())
    if not len(known):
        raise UserError(f"data.target={column.name}: no row of {name} has a value there")
    values = known.unique().sort()
    if task == "auto":
        few = column.dtype.is_integer() and len(values) <= MOST_INTEGERS
        task = "classification" if few or column.dtype in (pl.String, pl.Boolean) else "regression"
    if task == "regression":
        if column.dtype == pl.String:
            raise UserError(
                f"data.target={column.name} holds words in {name}, such as {values[0]!r}, and data.task=regression"
                " needs numbers: use data.task=classification or another target"
            )
        return None, _numbers(column)
    if len(values) == 1:
        raise UserError(
            f"data.target={column.name} is {values[0]!r} in every row of {name}: there is nothing to tell apart"
        )
    if column.dtype.is_float() and (known % 1 != 0).any():
        raise UserError(
            f"data.target={column.name} holds fractions in {name}, such as {known.filter(known % 1 != 0)[0]}, and"
            " data.task=classification needs classes: use data.task=regression or another target"
        )
    if 2 * len(values) > len(known):
        raise UserError(
            f"data.target={column.name} has {len(values)} classes in {len(known)} rows of {name}, less than two rows"
            " each: use data.task=regression for numbers, or another target"
        )
    index = {value: i for i, value in enumerate(values.to_list())}
    labels = np.array([index.get(value, -1) for value in column.to_list()], dtype=np.int64)
    return [str(value) for value in values.to_list()], labels
