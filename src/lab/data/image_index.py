"""Finds the pictures, labels and classes of a folder, and what a set of pictures offers to models.

Works without torch, so that errors in a folder are reported at once.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.data.table_schema import read_csv
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

SPLITS = ("train", "val", "test")
SUFFIXES = (".png", ".jpg", ".jpeg")
COLUMNS = ("file", "label")  # of a table of labels

Labelled = list[tuple[str, str]]  # paths of pictures below a folder, and the names of their classes


def dims(path: Any, labels: Any, image_shape: Sequence[int], mean: Any, std: Any) -> dict[str, Any]:
    """Returns the `dims` of a folder of pictures, see `lab.data.image_folder.ImageFolder`."""
    return image_dims(len(class_names(Path(str(path)), labels)), image_shape, mean, std)


def image_dims(num_classes: int, image_shape: Sequence[int], mean: Any = None, std: Any = None) -> dict[str, Any]:
    """Returns the `dims` of pictures: the rows of grey ones as a sequence, units where `mean` and `std` are numbers."""
    channels, height, width = image_shape
    found: dict[str, Any] = {"image_shape": [channels, height, width], "features": math.prod(image_shape)}
    if channels == 1:
        found["sequence"] = [height, width]
    if all(isinstance(number, int | float) for number in (mean, std)):
        found["pixel_mean_std"] = [mean, std]
    return found | {"classes": num_classes}


def class_names(path: Path, labels: str | None = None) -> list[str]:
    """Returns the names of the classes, in order: of the folders, or of the table of labels.

    Raises:
        UserError: when there are less than two.
    """
    if labels is not None:
        names = {name for _, name in read_labels(path, labels)}
    else:
        parts = split_folders(path)
        root = next(iter(parts.values()), path)
        names = {folder.name for folder in _folders(root)}
        if not names:
            here = sum(1 for _ in _pictures(root))
            raise UserError(
                f"data.path={path} has no folders of classes; pictures in it: {here:,}\n"
                f"it needs one for each class, such as {path.name}/cat, or a table with columns file and label:"
                " data.labels=FILE.csv"
            )
    if len(names) == 1:
        raise UserError(f"{labels or path} has one class, {min(names)}: there is nothing to tell apart")
    return sorted(names)


def find_pictures(path: Path, labels: str | None = None) -> dict[str, Labelled]:
    """Finds the pictures below `path`, sorted.

    Returns:
        Those of each of the folders `train`, `val` and `test` that there are, or all of them as `train`.

    Raises:
        UserError: when there are none.
    """
    if labels is not None:
        return {"train": read_labels(path, labels)}
    found: dict[str, Labelled] = {}
    for name, root in (split_folders(path) or {"train": path}).items():
        found[name] = [
            (str(picture.relative_to(path)), folder.name) for folder in _folders(root) for picture in _pictures(folder)
        ]
        for folder in sorted({folder.name for folder in _folders(root)} - {label for _, label in found[name]}):
            raise UserError(f"{root / folder} holds no picture ({', '.join(SUFFIXES)}): put some there, or remove it")
    return found


def split_folders(path: Path) -> dict[str, Path]:
    """Returns those of the folders `train`, `val` and `test` that hold folders of classes."""
    if not path.is_dir():
        beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        what = "is a file: give a folder" if path.exists() else f"no such folder{nearest(path.name, beside)}"
        raise UserError(f"data.path={path}: {what}")
    return {name: path / name for name in SPLITS if (path / name).is_dir() and _folders(path / name)}


def read_labels(path: Path, labels: str) -> Labelled:
    """Reads a table with columns `file`, a path below `path`, and `label`.

    Raises:
        UserError: when a column, a label or a file is missing.
    """
    table = read_csv(Path(labels), "data.labels")
    for column in COLUMNS:
        if column not in table.columns:
            raise UserError(
                f"data.labels={labels} has no column {column}{nearest(column, table.columns)}\n"
                f"it needs {' and '.join(COLUMNS)}, and has {', '.join(table.columns)}"
            )
    for column in COLUMNS:
        for row in table[column].is_null().arg_true().head(1):
            raise UserError(f"row {row + 1} of {labels} has no {column}")
    rows = sorted(zip(*(table[column].to_list() for column in COLUMNS), strict=True))
    there = {str(picture.relative_to(path)) for picture in _pictures(path)} if path.is_dir() else set()
    if lacking := [file for file, _ in rows if os.path.normpath(file) not in there]:
        raise UserError(
            f"{labels} names {lacking[0]}, which is no picture in data.path={path}{nearest(lacking[0], there)}"
            + f"\nof its {len(rows):,} files {len(lacking):,} are not there" * (len(lacking) > 1)
        )
    return rows


def encode_labels(found: Mapping[str, Labelled], classes: Sequence[str]) -> dict[str, list[int]]:
    """Returns the number of each picture's class.

    Raises:
        UserError: when a class is none of `classes`.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    for file, label in (each for pictures in found.values() for each in pictures):
        if label not in numbers:
            raise UserError(
                f"{file} is of the class {label}, which is none of the training pictures'{nearest(label, classes)}\n"
                f"classes: {', '.join(classes[:30])}{', …' * (len(classes) > 30)}"
            )
    return {name: [numbers[label] for _, label in pictures] for name, pictures in found.items()}


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _pictures(path: Path) -> Iterator[Path]:
    """Yields the pictures below a folder, sorted."""
    for folder, below, names in os.walk(path, followlinks=True):
        below.sort()
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(folder, name)
