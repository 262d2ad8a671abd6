"""Files that are read once in a process, so that the jobs of a sweep share them."""

from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def kept(read: Callable[[Path], T]) -> Callable[[Path], T]:
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
