"""Reads a table as the training file was read, so that a model can be given new rows; without torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lab.data.files import Source, features
from lab.data.frames import read_frame
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest


def read_rows(path: str, sources: Sequence[Source], key: str = "data.path") -> tuple[pl.DataFrame, NDArray[np.float64]]:
    """Reads a file whose columns, in any order, are those of the training file; others are passed over.

    Args:
        path: of the file.
        sources: columns of the training file, see `lab.data.files.Table`.
        key: what the user gave the file as.

    Returns:
        The file, all words, and the features (N, D), NaN where missing.

    Raises:
        UserError: where a column lacks, or a row holds what the training file did not: the first, with column and row.
    """
    frame = read_frame(Path(path), key, as_words=True)
    name = Path(path).name
    for source in sources:
        if source["name"] not in frame.columns:
            raise UserError(
                f"{name} has no column {source['name']}, which the run's model reads"
                f"{nearest(source['name'], frame.columns)}\ncolumns: {_shortened(frame.columns)}"
            )
    return frame, features(frame.select(_column(frame[s["name"]], s, name) for s in sources), sources)


def read_targets(words: pl.Series, classes: Sequence[str] | None, name: str) -> NDArray[Any]:
    """The targets (N,) of a column of words: labels, -1 where missing, by the names of `classes`; without, numbers.

    Raises:
        UserError: for a class that the training file did not have, or for what is no number.
    """
    if classes is None:
        return _column(words, {"kind": "numbers"}, name).fill_null(float("nan")).to_numpy(writable=True)
    index = {key: i for i, known in enumerate(classes) for key in (known, *_spellings(known))}
    labels = []
    for row, word in enumerate(words.to_list()):
        found = -1 if word is None else index.get(word, index.get(_spellings(word)[0], -2))
        if found == -2:
            _refuse(words.name, row, name, word, "no class", classes)
        labels.append(found)
    return np.array(labels, dtype=np.int64)


def _spellings(word: str) -> tuple[Any]:
    """What a class is known by whatever it is written like: 3 and 3.0, True and true are the same."""
    try:
        return (float(word),)
    except ValueError:
        return (word.lower() if word.lower() in ("true", "false") else word,)


def _column(words: pl.Series, source: Source, name: str) -> pl.Series:
    """A column of words as what it held in the training file."""
    if source["kind"] == "words":
        unknown = ~words.is_in(source["words"]).fill_null(True)
        if unknown.any():
            row = int(unknown.arg_max() or 0)
            _refuse(words.name, row, name, words[row], "no word", source["words"])
        return words
    if source["kind"] == "booleans":
        lower = words.str.to_lowercase()
        words = words.set(lower == "true", "1").set(lower == "false", "0")
    numbers = words.cast(pl.Float64, strict=False)
    wrong = numbers.is_null() & words.is_not_null()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        _refuse(words.name, row, name, words[row], "no number" if source["kind"] == "numbers" else "not true or false")
    return numbers


def _refuse(column: str, row: int, name: str, word: str, what: str, known: Sequence[str] = ()) -> None:
    """Says what is wrong in a row, which people count from 1, the names of the columns not among them."""
    raise UserError(
        f"row {row + 1} of {name}: {column}={word} is {what}"
        + (f" that the run's model knows{nearest(word, known)}\nknown: {_shortened(known)}" if known else "")
    )


def _shortened(words: Sequence[str]) -> str:
    return ", ".join(words[:30]) + ", …" * (len(words) > 30)
