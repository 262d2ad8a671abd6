"""Files: written atomically, read once, checked before they are read."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

T = TypeVar("T")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside `path`, which replaces `path` at the end; on an error `path` stays as it was.

    The file and its folder's entry are on the disk (fsync) before this returns.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        _fsync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # also after replacing one name of a file by another, which does nothing
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cached_by_mtime(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Makes a function that reads a file remember the last results, each for as long as its file stays as it is.

    What it returns is shared: nobody may change it.
    """

    @lru_cache(maxsize=4)  # the files of one dataset
    def again(path: Path, changed: int, size: int) -> T:
        return read(path)

    @wraps(read)
    def once(path: Path) -> T:
        found = path.stat()
        return again(path, found.st_mtime_ns, found.st_size)

    return once


def read_yaml(path: Path) -> Any:
    """Reads a YAML file as plain values, by libyaml where there is one: many times as fast as Python's own reader."""
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def check_file(path: Path, key: str = "data.path") -> None:
    """Refuses a `data.path`, or what another `key` names, where there is no file, with the nearest name beside it."""
    if path.is_dir():
        raise UserError(f"{key}={path} is a folder: give a file")
    if not path.exists():
        beside = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"{key}={path}: no such file{nearest(path.name, beside)}")
