"""Writes files atomically, caches what was read of them, and checks paths."""

import hashlib
import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

log = logging.getLogger(__name__)

P = TypeVar("P")
T = TypeVar("T")
NUMBER = (int, float)
SAFE_LENGTH = 20_000  # characters; libyaml ends the process with a segmentation fault at 40,000 open brackets
MAX_VALUES = 1_000_000  # of a YAML file


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


# Bytes of a file that is read whole; samples of a larger one, and their size
WHOLE, SAMPLES, SAMPLE = 2**30, 1024, 2**16


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


def read_record(path: Path, kind: Any) -> Any:
    """Reads a JSON or YAML file of a run or a sweep; returns an empty `kind` where there is no such file.

    Args:
        path: of the file.
        kind: of what it holds, a dictionary or a list; see `check_kinds`.

    Raises:
        Damaged: with the path, and what is wrong where.
    """
    try:
        if not path.is_file():  # a pipe would never end
            return type(kind)()
        content = json.loads(path.read_bytes()) if path.suffix == ".json" else read_yaml(path)
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        refuse_damaged(path, str(error))
    check_kinds(path, content, kind)
    return content


def check_kinds(path: Path, content: Any, kind: Any, key: str = "") -> None:
    """Refuses content of a file that is of another kind than what reads it can use.

    Args:
        path: of the file.
        content: what it holds.
        kind: a type, several in a tuple, a list of one kind for its items, or a dictionary of kinds by key.
        key: of `content` in the file.

    Raises:
        Damaged: with the path, the key and the value.
    """
    expected: Any = type(kind) if isinstance(kind, dict | list) else kind
    if not isinstance(content, expected) or (isinstance(content, bool) and expected in (int, NUMBER)):
        refuse_damaged(path, f"{key or 'it'} is {content!r:.60}")
    for name, inner in kind.items() if isinstance(kind, dict) else ():
        if name in content:
            check_kinds(path, content[name], inner, f"{key}.{name}".removeprefix("."))
    for i, item in enumerate(content if isinstance(kind, list) else ()):
        check_kinds(path, item, kind[0], f"{key}[{i}]")


class Damaged(UserError):
    """Reports a file that cannot be read, or holds something else than it should."""


def refuse_damaged(path: Path, why: str) -> NoReturn:
    """Raises Damaged for a file, with the first line of why."""
    run = path.parent.parent if path.parent.name == ".hydra" else path.parent
    raise Damaged(f"{path} is damaged: {why.partition(chr(10))[0]}\nmend it, or move {run} away")


def undamaged(read: Callable[[P], T], items: Iterable[P]) -> Iterator[T]:
    """Yields what `read` returns for each item, and warns of those with a damaged file, which are left out."""
    for item in items:
        try:
            yield read(item)
        except Damaged as error:
            log.warning("left out: %s", str(error).partition("\n")[0])


def read_yaml(path: Path) -> Any:
    """Reads a YAML file as plain values, with libyaml if it is installed, which is many times as fast.

    Raises:
        UserError: for aliases that stand for more values than any honest file holds, or for what they are part of.
    """
    text = path.read_text(encoding="utf-8")
    is_small = len(text) < SAFE_LENGTH
    content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader) if is_small else yaml.SafeLoader)
    if _count_values(content, {}) > MAX_VALUES:
        raise UserError(f"{path}: its aliases stand for more than {MAX_VALUES:,} values: write fewer of them")
    return content


def _count_values(content: Any, counted: dict[int, float]) -> float:
    """Counts the values in nested lists and dictionaries, those behind an alias each time that it stands there."""
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in counted:
        counted[id(content)] = math.inf  # what is part of itself has no end
        inner = content.values() if isinstance(content, dict) else content
        counted[id(content)] = 1 + sum(_count_values(value, counted) for value in inner)
    return counted[id(content)]


def check_name(directory: Path) -> None:
    """Refuses a directory whose name no config can hold: `${` begins an interpolation, and Hydra cuts lines."""
    if "${" in (name := str(directory.absolute())) or not name.isprintable():
        raise UserError(f"{name!r}: a config takes ${{ and control characters apart: choose another name")


def check_file(path: Path, key: str = "data.path") -> None:
    """Raises UserError if `path`, the value of `key`, is no file, and suggests the nearest name in its folder."""
    if path.is_dir():
        raise UserError(f"{key}={path} is a folder: give a file")
    if not path.exists():
        siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"{key}={path}: no such file{nearest(path.name, siblings)}")
    if not path.is_file():  # a pipe or a device, which may never end
        raise UserError(f"{key}={path} is no regular file: give a file")
