"""One process at a time in a directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lab.engine.utils.errors import UserError


@contextmanager
def directory_lock(folder: Path, what: str, timeout: float = 0) -> Iterator[None]:
    """Keeps other processes out of `folder`; the claim ends with its process, however that ends.

    Args:
        folder: exists.
        what: is said of a folder that is taken, such as `is being trained in, by process 3`.
        timeout: seconds to wait for another process to leave, -1 for as long as it takes.

    Raises:
        UserError: when another process is there.
    """
    lock = FileLock(folder / ".lock", timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder} {what}: wait, or stop it") from None
    try:
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        lock.release()
