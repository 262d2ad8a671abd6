"""Locks a directory for one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lab.engine.utils.errors import UserError


@contextmanager
def directory_lock(folder: Path, what: str, timeout: float = 0) -> Iterator[None]:
    """Holds the lock of a directory; it is released when its process ends, however that happens.

    The file `.lock` stays: a waiting process has opened it, and would otherwise lock a deleted file.

    Args:
        folder: to lock; must exist.
        what: describes a locked folder in the error, such as `is being trained in, by process 3`.
        timeout: seconds to wait for another process to release the lock, -1 for no limit.

    Raises:
        UserError: when another process holds the lock.
    """
    lock = FileLock(folder / ".lock", timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder} {what}: wait, or stop it") from None
    try:
        yield
    finally:
        lock.release()
