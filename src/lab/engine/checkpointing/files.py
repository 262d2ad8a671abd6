"""Writes checkpoint files atomically, and reads them as data."""

import errno
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from lab.engine.utils.errors import NO_SPACE, RunFailed, UserError
from lab.engine.utils.files import atomic_write, cached_by_mtime
from lab.engine.utils.formats import FORMAT, check_format
from lab.engine.utils.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint atomically: temporary file beside `path`, fsync, rename.

    Raises:
        RunFailed: when the disk is full, with the bytes needed and free; `path` is as it was.
        OSError: when the folder cannot be written to.
    """
    import torch  # takes seconds, and is loaded already wherever there is a checkpoint to write

    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint["format"] = FORMAT
    for name in ("hyper_parameters", "datamodule_hyper_parameters"):
        if name in checkpoint:
            checkpoint[name] = redact(checkpoint[name])
    needed = sum(tensor.untyped_storage().nbytes() for tensor in _tensors(checkpoint))
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise RunFailed(_no_room(path, needed, free, os.strerror(errno.ENOSPC)))
    try:
        with atomic_write(path) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)  # given a path, it would hide what the system says
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            free = shutil.disk_usage(path.parent).free
            raise RunFailed(_no_room(path, needed, free, os.strerror(cause.errno))) from error
        raise


def link_checkpoint(path: Path, name: Path) -> None:
    """Replaces `name` by a hard link to the file at `path`, or by a copy where the filesystem has no hard links."""
    with atomic_write(name) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(path, partial)
        except OSError:
            shutil.copyfile(path, partial)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads the checkpoint at `path` onto the CPU; runs no code of it: it holds tensors and plain values alone.

    Raises:
        UserError: when it is no complete checkpoint, holds more than data, or was written by another version.
    """
    if fault := find_fault(path):
        raise UserError(f"{path}: {fault}")
    checkpoint = read_data(path)
    check_format(checkpoint if isinstance(checkpoint, dict) else {}, path)
    return checkpoint


def read_data(path: Path) -> Any:
    """Reads what torch saved at `path`, anybody's, onto the CPU; runs no code of it.

    Raises:
        UserError: when it cannot be read whole, or holds more than tensors and plain values.
    """
    import torch

    is_archive = zipfile.is_zipfile(path)  # torch's own format until 2020 is none
    if is_archive and (fault := find_fault(path)):
        raise UserError(f"{path}: {fault}")
    try:
        # Mapped to memory, so that unused parts, such as an optimizer's state in a test, are not read
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        cause = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({cause[1]})" if cause else ", or is cut short or another kind of file"
        raise UserError(f"{path} holds code, and not data alone{what}: not loaded") from error
    except (EOFError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read: {str(error).partition(chr(10))[0] or 'it is empty'}") from error


def find_fault(path: Path) -> str | None:
    """Returns why the file at `path` is no complete checkpoint, by its checksums; None where it is one."""
    return _find_fault(path) if path.is_file() else "no such file"


@cached_by_mtime  # a process that resumes asks several times, and the whole file is read
def _find_fault(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            is_checkpoint = any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError):
        return "no complete checkpoint: it is cut short, or another kind of file"
    if damaged:
        return f"damaged: the checksum of its part {damaged} is wrong"
    return None if is_checkpoint else "no checkpoint, but another kind of archive"


def remove_partial_files(folder: Path) -> None:
    """Removes the temporary files that killed writers left in `folder`."""
    for partial in folder.glob(".*.part"):
        partial.unlink(missing_ok=True)


def _tensors(value: Any) -> "Iterator[Tensor]":
    """Yields every tensor in a tree of dictionaries and lists; of those that share memory only one."""
    import torch

    seen, stack = set(), [value]
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            if item.untyped_storage().data_ptr() not in seen:
                seen.add(item.untyped_storage().data_ptr())
                yield item
        elif isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, list | tuple):
            stack += item


def _no_room(path: Path, needed: int, free: int, cause: str) -> str:
    run = quote(str(path.parents[1]))
    before = "the previous checkpoint is still there; " if path.is_file() else ""
    return (
        f"no room for {path}: it needs {needed:,} bytes, and {free:,} are free ({cause})\n"
        f"{before}make room, or raise the quota or `ulimit -f`, and resume: python src/train.py resume={run}"
    )
