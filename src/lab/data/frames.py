"""A CSV file as columns."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from lab.engine.utils.errors import UserError
from lab.engine.utils.files import check_file
from lab.engine.utils.names import nearest

MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "?")  # words that stand for no value


def check_columns(columns: Sequence[str], column: str, name: str, key: str) -> None:
    """Refuses a `column` that the user gave as `key` and the file `name` does not have."""
    if column not in columns:
        raise UserError(
            f"{key}={column}: no such column in {name}{nearest(column, columns)}\n"
            f"columns: {', '.join(columns[:30])}{', …' * (len(columns) > 30)}"
        )


def read_frame(path: Path, key: str = "data.path", as_words: bool = False) -> pl.DataFrame:
    """The file as it stands, surrounding blanks and words for missing values taken off.

    Args:
        path: of the file.
        key: what the user gave it as.
        as_words: leave every column as words, instead of finding out what it holds.
    """
    check_file(path, key)
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            header = file.readline()
    except OSError as error:
        raise UserError(f"{key}={path}: {error.strerror}: give a CSV file") from error
    if not header.strip():
        raise UserError(f"{key}={path} is empty: it needs a line of column names, then rows")

    def parse(looked_at: int | None) -> pl.DataFrame:
        return pl.read_csv(
            path,
            separator=max(",;\t", key=header.count),
            null_values=list(MISSING),
            infer_schema=not as_words,
            infer_schema_length=looked_at,
            encoding="utf8-lossy",
        ).rename(str.strip)

    try:
        try:
            frame = parse(10_000)
        except PolarsError:  # a later row is of another type: all of them decide then, which takes six times as long
            frame = parse(None)
    except PolarsError as error:
        raise UserError(f"{key}={path} cannot be read as CSV: {str(error).splitlines()[0]}") from error
    if not len(frame):
        raise UserError(f"{key}={path} holds column names and no rows")
    tidy = _blanks_off if as_words else _trimmed
    return frame.with_columns(tidy(column) for column in frame if column.dtype == pl.String)


def _blanks_off(column: pl.Series) -> pl.Series:
    words = column.str.strip_chars()
    return words.set(words.is_in(MISSING), None)


def _trimmed(column: pl.Series) -> pl.Series:
    """A column of words without blanks around them; of numbers or booleans, if that is what they are then."""
    words = _blanks_off(column)
    if set(words.drop_nulls().str.to_lowercase().unique()) <= {"true", "false"}:
        return words.str.to_lowercase() == "true"
    for kind in (pl.Int64, pl.Float64):
        numbers = words.cast(kind, strict=False)
        if numbers.null_count() == words.null_count():
            return numbers
    return words
