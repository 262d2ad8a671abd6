"""Writes files atomically, caches what was read of them, and checks paths."""

import hashlib
import os
import secrets
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
    # Random, not the process's number: two containers that share a folder may have equal ones
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
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
    """Caches the last results of a function that reads a file, each until its file changes.

    Callers share the results and must not modify them.
    """

    @lru_cache(maxsize=4)  # the files of one dataset
    def cached(path: Path, mtime: int, size: int, inode: int) -> T:
        return read(path)

    @wraps(read)
    def wrapper(path: Path) -> T:
        stat = path.stat()
        return cached(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)  # a tick of the clock is milliseconds

    return wrapper


WHOLE, SAMPLES, SAMPLE = (
    2**30,
    1024,
    2**16,
)  # bytes of a file that is read whole; samples of a larger one, and their size


@cached_by_mtime
def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file's content; above 1 GiB of its size and of 1024 samples, its ends among them.

    A larger file that was changed in place, and is as long as before, may have the same.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for i in range(SAMPLES):
            file.seek(i * (size - SAMPLE) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
        return digest.hexdigest()


def read_yaml(path: Path) -> Any:
    """Reads a YAML file as plain values, with libyaml if it is installed, which is many times as fast."""
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def check_file(path: Path, key: str = "data.path") -> None:
    """Raises UserError if `path`, the value of `key`, is no file, and suggests the nearest name in its folder."""
    if path.is_dir():
        raise UserError(f"{key}={path} is a folder: give a file")
    if not path.exists():
        siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"{key}={path}: no such file{nearest(path.name, siblings)}")
