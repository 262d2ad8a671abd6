"""Encodes CSV files larger than memory, some rows at a time, as rows of numbers in a file that is mapped into memory.

Works without torch, so that errors in a file are reported at once. What was found once is kept under the checksum of
the CSV file and the choices that it depends on. Legend: N rows, D features.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lab.data.table_schema import (
    Decimal,
    Schema,
    Task,
    encode_features,
    encode_target,
    feature_names,
    infer_schema,
    read_csv,
    readable,
    scan_csv,
)
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import atomic_write, checksum
from lab.engine.utils.machine import memory_limit

log = logging.getLogger(__name__)

Resident = Literal["auto"] | bool

# Of the memory: a CSV file beyond is not read whole, since its strings and numbers take several times as much
SHARE = 16
BATCH = 50_000  # rows that are read at a time
DISTINCT = 10_000  # different strings of a column that say what it holds
FORMAT = 1  # of the files that are kept


def dims(
    path: Any,
    target: Any,
    task: Task,
    drop: Sequence[Any],
    decimal: Decimal = "plain",
    data_dir: str = "data",
    resident: Resident = "auto",
) -> dict[str, int]:
    """Returns the `dims` of a file: the numbers of `features` and of `classes` or `targets`; see `infer_schema`."""
    file = Path(str(path))
    changed = file.stat().st_mtime_ns if file.is_file() else 0
    columns = tuple(str(column) for column in drop)
    return dict(_dims(file, changed, str(target), task, columns, decimal, data_dir, is_large(file, resident)))


@cache
def _dims(
    path: Path,
    changed: int,
    target: str,
    task: Task,
    drop: tuple[str, ...],
    decimal: Decimal,
    data_dir: str,
    large: bool,
) -> dict[str, int]:
    if large:
        schema, classes = infer_large(path, target, task, drop, decimal, data_dir)
    else:
        schema, classes = infer_schema(read_csv(path, decimal=decimal), target, task, drop, path.name)
    outputs = {"targets": 1} if classes is None else {"classes": len(classes)}
    return {"features": len(feature_names(schema)), **outputs}


def is_large(path: Path, resident: Resident) -> bool:
    """Returns whether a file is read some rows at a time: as `resident` says, or because of its size."""
    if resident != "auto":
        return not resident
    return path.is_file() and path.stat().st_size > memory_limit() / SHARE


def infer_large(
    path: Path, target: str, task: Task, drop: Sequence[str], decimal: Decimal, data_dir: str
) -> tuple[Schema, list[str] | None]:
    """Infers what `infer_schema` does, from up to 10,000 different strings of each column, the oddest first."""

    def infer() -> tuple[Schema, list[str] | None]:
        log.info("reading the columns of %s", path)
        seen: dict[str, pl.Series] = {}
        for strings in _batches(path, decimal):
            for column in strings:
                name = column.name
                known = pl.concat([seen.get(name, column.clear()), column.drop_nulls()]).unique()
                # Words before fractions before whole numbers: one of them decides what the column holds
                is_number, is_whole = (pl.col(name).cast(t, strict=False).is_not_null() for t in (pl.Float64, pl.Int64))
                seen[name] = known.to_frame().sort(is_number, is_whole, name).head(DISTINCT).to_series()
        if not seen:
            raise UserError(f"data.path={path} holds column names and no rows")
        # Twice each, since classes that are met once are refused
        rows = 2 * max(map(len, seen.values()))
        columns = [pl.concat([values, values]) for values in seen.values()]
        found = pl.DataFrame([column.extend_constant(None, rows - len(column)) for column in columns])
        schema, classes = infer_schema(found, target, task, drop, path.name)
        if classes is not None and len(classes) == DISTINCT:
            raise UserError(f"data.target={target} has {DISTINCT:,} classes or more in {path.name}: that is too many")
        return schema, classes

    schema, classes = remembered(infer, data_dir, path, target, task, list(drop), decimal)
    return schema, classes


def map_rows(
    path: Path, target: str, schema: Schema, classes: list[str] | None, decimal: Decimal, data_dir: str
) -> NDArray[Any]:
    """Maps the encoded rows of a CSV file into memory; encodes them first where that was not done.

    Returns:
        A structured array (N,): `features` (D,), `target`, a label or value, both NaN where missing, and `hash`, equal
        for equal rows.

    Raises:
        UserError: where `encode_features` and `encode_target` do.
    """
    width = len(feature_names(schema))
    dtype = np.dtype([("features", np.float32, (width,)), ("target", np.float64), ("hash", np.uint64)])
    file = _kept(data_dir, "rows", path, target, schema, classes, decimal)
    if not file.is_file():
        log.info("encoding %s: its rows will lie in %s", path, file)
        file.parent.mkdir(parents=True, exist_ok=True)
        first = 0
        with atomic_write(file) as partial, partial.open("wb") as out:
            for strings in _batches(path, decimal):
                features = encode_features(strings, schema, path.name, first)
                targets = encode_target(strings, target, classes, path.name, first)
                features[~np.isfinite(features)] = np.nan
                if classes is not None:
                    targets = np.where(targets < 0, np.nan, targets)
                rows = np.empty(len(strings), dtype)
                rows["features"], rows["target"] = features, targets
                rows["hash"] = pl.from_numpy(np.column_stack([features, targets])).hash_rows(0).to_numpy()
                out.write(rows.view(np.uint8).data)
                first += len(strings)
    return np.memmap(file, dtype, "r")


def find_unusable(rows: NDArray[Any], missing: str, duplicates: str) -> dict[str, NDArray[np.bool_]]:
    """Finds the rows that `lab.data.prepare.clean` drops, each by its reason: masks (N,)."""
    unusable = {"row without a target": ~np.isfinite(rows["target"])}
    if duplicates == "drop":
        again = np.ones(len(rows), bool)
        again[np.unique(rows["hash"], return_index=True)[1]] = False
        unusable["duplicate"] = again
    if missing == "drop":
        parts = [np.isnan(rows["features"][i : i + BATCH]).any(1) for i in range(0, len(rows), BATCH)]
        unusable["row without all features"] = np.concatenate(parts)
    found = np.zeros(len(rows), bool)
    for reason, mask in unusable.items():  # a row counts once
        unusable[reason] = mask & ~found
        found |= mask
    return unusable


def remembered(find: Callable[[], Any], data_dir: str, path: Path, *choices: Any) -> Any:
    """Returns what `find` returned for the same file and choices before, as plain values; else calls it."""
    file = _kept(data_dir, "json", path, *choices)
    if not file.is_file():
        found = json.dumps(find())
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as partial:
            partial.write_text(found)
    return json.loads(file.read_text())


def _batches(path: Path, decimal: Decimal) -> Iterator[pl.DataFrame]:
    with readable(path):
        yield from scan_csv(path, decimal=decimal).collect_batches(chunk_size=BATCH, maintain_order=True)


def _kept(data_dir: str, suffix: str, path: Path, *choices: Any) -> Path:
    """Returns where that is kept which depends on a file's content and on choices."""
    with readable(path):
        key = json.dumps([FORMAT, checksum(path), *choices])
    return Path(data_dir, "tables", f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.{suffix}")
