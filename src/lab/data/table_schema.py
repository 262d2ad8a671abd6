"""Reads CSV files, infers what their columns hold, and encodes them as numbers.

Works without torch, so that errors in a file are reported at once. Legend: N rows, D features.
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PolarsError

from lab.engine.utils.errors import UserError
from lab.engine.utils.files import check_file
from lab.engine.utils.names import nearest

Task = Literal["auto", "classification", "regression"]
# Columns by name, in order: `number`, `boolean`, or the categories of a column of strings. Plain, for checkpoints
Schema = dict[str, str | list[str]]

# Words that stand for no value: those that pandas reads so, a question mark and a dash
MISSING = (
    "", "NA", "N/A", "n/a", "<NA>", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "#N/A", "#N/A N/A", "#NA",
    "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "?", "-",
)  # fmt: skip
Decimal = Literal["plain", "point", "comma"]
# How numbers may be written, and the marks of thousands in them; a percent sign may follow
NUMBERS = {
    "point": (r"^[+-]?((\d{1,3}(,\d{3})+|\d+)(\.\d*)?|\.\d+)(e[+-]?\d+)?\s*%?$", ","),
    "comma": (r"^[+-]?((\d{1,3}([. \u00a0\u202f']\d{3})+|\d+)(,\d*)?|,\d+)(e[+-]?\d+)?\s*%?$", r"[. \u00a0\u202f']"),
}
MAX_CATEGORIES = 50  # of a column that is one-hot encoded
MAX_INTEGER_CLASSES = 20  # different whole numbers that task=auto still takes for classes


def read_csv(path: Path, key: str = "data.path", decimal: Decimal = "plain") -> pl.DataFrame:
    """Reads a CSV file in UTF-8 with a header: separated by commas, semicolons or tabs, whichever gives most columns.

    Args:
        path: of the file.
        key: what the user gave it as.
        decimal: see `lab.data.csv.CSV`.

    Returns:
        Columns of strings, without blanks around them, null where they mean no value.

    Raises:
        UserError: when the file is not there, cannot be read, has no rows, or a column twice.
    """
    with readable(path, key):
        strings = scan_csv(path, key, decimal).collect()
    if strings.is_empty():
        raise UserError(f"{key}={path} holds column names and no rows")
    return strings


def scan_csv(path: Path, key: str = "data.path", decimal: Decimal = "plain") -> pl.LazyFrame:
    """Returns what `read_csv` does, before anything but the header is read."""
    check_file(path, key)
    separator = _separator(path, key)
    strings = pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)  # a file's name may hold brackets
    stripped = pl.all().str.strip_chars()
    strings = strings.rename(str.strip).select(pl.when(~stripped.is_in(MISSING)).then(stripped))
    return strings if decimal == "plain" else strings.select(_plain_numbers(decimal))


@contextmanager
def readable(path: Path, key: str = "data.path") -> Iterator[None]:
    """Raises UserError for what polars or the system say of a file, the value of `key`, that is read meanwhile."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{key}={path}: {error.strerror}: give a CSV file") from error
    except (PolarsError, UnicodeDecodeError) as error:
        raise UserError(f"{key}={path} cannot be read as CSV: {_fault(path) or str(error).splitlines()[0]}") from error


def _separator(path: Path, key: str) -> str:
    """Returns what separates the columns; refuses names that stand twice, which polars would change."""
    with path.open("rb") as file:
        header = next((line for line in file if line.strip()), b"").decode("utf-8-sig")
    if not header:
        raise UserError(f"{key}={path} is empty: it needs a line of column names, then rows")
    if "\r" in header.rstrip("\r\n"):
        raise UserError(f"{key}={path}: its lines end in carriage returns alone: tr '\\r' '\\n' mends that")
    columns = {separator: next(csv.reader([header], delimiter=separator)) for separator in ",;\t"}
    separator = max(columns, key=lambda separator: len(columns[separator]))
    names = [name.strip() for name in columns[separator]]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{key}={path}: the column {twice[0]!r} stands twice: rename one of them")
    return separator


def _fault(path: Path) -> str | None:
    """Returns which line of a file is no UTF-8; None where all are."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                encoding = "utf-16" if b"\0" in line else "latin1"
                return (
                    f"line {number} is no UTF-8 ({line[error.start :][:1]!r}): iconv -f {encoding} -t utf-8 mends that"
                )
    return None


def _plain_numbers(decimal: Decimal) -> pl.Expr:
    """Writes numbers as Python does, and leaves other strings as they are."""
    pattern, thousands = NUMBERS[decimal]
    plain = pl.all().str.replace_all(thousands, "").str.replace(",", ".", literal=True).str.strip_chars("% ")
    return pl.when(pl.all().str.contains(pattern)).then(plain).otherwise(pl.all())


def doubtful_columns(strings: pl.DataFrame, schema: Schema) -> Iterator[str]:
    """Yields a sentence for each column of words that somebody may have meant as numbers."""
    for name, kind in schema.items():
        if isinstance(kind, list) and (doubt := _doubt(strings[name])):
            yield f"column {name} becomes words: {doubt}"


def _doubt(strings: pl.Series) -> str | None:
    words = strings.drop_nulls()
    odd = words.filter(words.cast(pl.Float64, strict=False).is_null())
    if 5 * len(odd) < len(words):
        return f"{len(odd)} of {len(words)} values are no numbers, such as {odd[0]!r}"
    reading = [f"data.decimal={name}" for name, (pattern, _) in NUMBERS.items() if words.str.contains(pattern).all()]
    return f"{' or '.join(reading)} makes numbers of its values, such as {odd[0]!r}" if reading else None


def infer_schema(
    strings: pl.DataFrame, target: str, task: Task, drop: Sequence[str], name: str
) -> tuple[Schema, list[str] | None]:
    """Infers what the columns of a training file hold. Columns without any value are left out.

    Args:
        strings: what `read_csv` returns.
        target: name of the column to predict.
        task: see `lab.data.csv.CSV`, like `drop`.
        drop: names of the columns to leave out.
        name: of the file.

    Returns:
        The columns that the features come from, and the names of the classes, None where the target is a value.

    Raises:
        UserError: when there is no such column, or nothing to learn from.
    """
    for key, column in [("target", target), *(("drop", column) for column in drop)]:
        _check_column(strings, column, f"data.{key}={column}: no such column in {name}")
    if target in drop:
        raise UserError(f"data.drop={list(drop)}: {target} is the target; take it off the list")
    classes = _infer_classes(_infer(strings[target]), task, name)
    schema = {column.name: kind for column in strings.drop(target, *drop) if (kind := _infer_kind(column))}
    for column, kind in schema.items():
        if isinstance(kind, list) and len(kind) > MAX_CATEGORIES:
            dropped = [n if n.isidentifier() else f'"{n}"' for n in (*drop, column)]  # Hydra wants others quoted
            doubt = _doubt(strings[column]) or f"such as {kind[0]!r}"
            raise UserError(
                f"column {column} of {name} holds {len(kind)} different words ({doubt}); at most {MAX_CATEGORIES}"
                f" become features\nmend its values, or leave it out: 'data.drop=[{','.join(dropped)}]'"
            )
    if not schema:
        raise UserError(f"{name} has no column to learn from besides the target {target} and data.drop={list(drop)}")
    return schema, classes


def feature_names(schema: Schema) -> list[str]:
    """Returns the names of the D features; a column `size` of strings becomes `size=large`, `size=small`."""
    return [
        name
        for column, kind in schema.items()
        for name in ([column] if isinstance(kind, str) else [f"{column}={category}" for category in kind])
    ]


def encode_features(strings: pl.DataFrame, schema: Schema, name: str, first: int = 0) -> NDArray[np.float64]:
    """Encodes the columns of `schema`, in any order, as features; ignores other columns.

    Numbers stay, booleans become 0 and 1, a column of strings becomes one of 0 and 1 for each of its categories. A
    missing word is missing in each of these. `first` rows of the file stand before `strings`.

    Returns:
        Features (N, D), NaN or infinite where missing.

    Raises:
        UserError: where a column lacks, or a row holds what the schema does not know: the first, with column and row.
    """
    features = []
    for column, kind in schema.items():
        _check_column(strings, column, f"{name} has no column {column}, which the run's model reads")
        values, categories = _parse(strings[column], kind), kind if isinstance(kind, list) else []
        wrong = {"number": "no number", "boolean": "not true or false"}.get(str(kind), "no word")
        _check_known(strings[column], values, name, wrong, categories, first)
        features += [(values == category).cast(pl.Float64) for category in categories] or [values]
    return np.column_stack([feature.to_numpy() for feature in features])


def encode_target(
    strings: pl.DataFrame, target: str, classes: Sequence[str] | None, name: str, first: int = 0
) -> NDArray[Any]:
    """Encodes the column to predict: labels (N,), -1 where missing, without `classes` values (N,), NaN where missing.

    Classes are known however they are written: 3 and 3.0, True and true are the same.

    Raises:
        UserError: when there is no such column, or for the first row with another class, or with what is no number.
    """
    _check_column(strings, target, f"data.target={target}: no such column in {name}")
    column = strings[target]
    if classes is None:
        values = _parse(column, "boolean")  # which are 0 and 1 to a regression
        _check_known(column, values, name, "no number", first=first)
        return values.to_numpy(writable=True)
    known, values = _infer(pl.Series(classes)), column
    if known.dtype == pl.Boolean:
        known, values = known.cast(pl.Float64), _parse(column, "boolean")
    elif known.dtype.is_numeric():
        values = column.str.replace(r"\.0*$", "").cast(known.dtype, strict=False)
    labels = values.replace_strict(known, range(len(classes)), default=None, return_dtype=pl.Int64)
    if values.dtype.is_float():
        labels = labels.set(values.is_infinite(), -1)
    _check_known(column, labels, name, "no class", classes, first)
    return labels.fill_null(-1).to_numpy(writable=True)


def _infer(strings: pl.Series) -> pl.Series:
    """Parses a column as booleans, whole numbers or numbers, if all of its strings are such."""
    lower = strings.str.to_lowercase()
    if lower.drop_nulls().is_in(["true", "false"]).all():
        return lower == "true"
    for dtype in (pl.Int64, pl.Float64):
        numbers = strings.cast(dtype, strict=False)
        if numbers.null_count() == strings.null_count():
            return numbers
    return strings


def _known(values: pl.Series) -> pl.Series:
    known = values.drop_nulls()
    return known.filter(known.is_finite()) if known.dtype.is_float() else known


def _infer_kind(strings: pl.Series) -> str | list[str] | None:
    """Returns the kind of a column, see `Schema`; None for an empty column."""
    known = _known(_infer(strings))
    if known.is_empty():
        return None
    if known.dtype == pl.String:
        return known.unique().sort().to_list()
    return "boolean" if known.dtype == pl.Boolean else "number"


def _infer_classes(column: pl.Series, task: Task, name: str) -> list[str] | None:
    """Returns the names of the classes of a target; None for a value."""
    known = _known(column)
    if known.is_empty():
        raise UserError(f"data.target={column.name}: no row of {name} has a value there")
    if known.dtype.is_float() and (known % 1 == 0).all():  # whole numbers that a gap has turned into floats
        column = known = known.cast(pl.Int64, strict=False)
    values = known.unique().sort()
    if task == "auto":
        few = column.dtype.is_integer() and len(values) <= MAX_INTEGER_CLASSES
        task = "classification" if few or column.dtype in (pl.String, pl.Boolean) else "regression"
    if task == "regression":
        if column.dtype == pl.String:
            raise UserError(
                f"data.target={column.name} holds words in {name}, such as {values[0]!r}, and data.task=regression"
                " needs numbers: use data.task=classification or another target"
            )
        return None
    if len(values) == 1:
        raise UserError(
            f"data.target={column.name} is {values[0]!r} in every row of {name}: there is nothing to tell apart"
        )
    if column.dtype.is_float() and (fractions := known.filter(known % 1 != 0)).len():
        raise UserError(
            f"data.target={column.name} holds fractions in {name}, such as {fractions[0]}, and"
            " data.task=classification needs classes: use data.task=regression or another target"
        )
    if 2 * len(values) > len(known):
        raise UserError(
            f"data.target={column.name} has {len(values)} classes in {len(known)} rows of {name}, less than two rows"
            " each: use data.task=regression for numbers, or another target"
        )
    return [str(value) for value in values]


def _parse(strings: pl.Series, kind: str | list[str]) -> pl.Series:
    """Parses a column as the kind that its schema gives; null where a string is something else."""
    if isinstance(kind, list):
        return strings.cast(pl.Enum(kind), strict=False)
    if kind == "boolean":
        strings = strings.str.to_lowercase().replace({"true": "1", "false": "0"})
    return strings.cast(pl.Float64, strict=False)


def _check_column(strings: pl.DataFrame, column: str, said: str) -> None:
    if column not in strings.columns:
        raise UserError(f"{said}{nearest(column, strings.columns)}\ncolumns: {_shortened(strings.columns)}")


def _check_known(
    strings: pl.Series, values: pl.Series, name: str, what: str, known: Sequence[str] = (), first: int = 0
) -> None:
    """Refuses a string that the schema does not know; names its row, counted from 1 without the header."""
    for row in (strings.is_not_null() & values.is_null()).arg_true().head(1):
        raise UserError(
            f"row {first + row + 1} of {name}: {strings.name}={strings[row]} is {what}"
            + (
                f" that the run's model knows{nearest(strings[row], known)}\nknown: {_shortened(known)}"
                if known
                else ""
            )
        )


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:30]) + ", …" * (len(names) > 30)
