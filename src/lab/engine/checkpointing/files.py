"""Writes checkpoint files atomically, and reads them as data."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.redaction import redact

FORMAT = 2  # of what a checkpoint holds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes `checkpoint` at `path`: what was there before stays until the last moment, and then all is there.

    The file is written beside `path`, on the same filesystem, so that taking its place is one step; both it and the
    folder's entry are on the disk before this returns.

    Raises:
        RunFailed: when the disk is full, with the bytes needed and free; `path` is as it was.
        OSError: when the folder cannot be written to.
    """
    import torch  # takes seconds: where a checkpoint is at hand it is there already

    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint["format"] = FORMAT
    for name in ("hyper_parameters", "datamodule_hyper_parameters"):
        if name in checkpoint:
            checkpoint[name] = redact(checkpoint[name])
    needed = sum(tensor.untyped_storage().nbytes() for tensor in _tensors(checkpoint))
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise RunFailed(_full(path, needed, free))
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.touch()  # torch would hide why a file cannot be made
        try:
            torch.save(checkpoint, partial)
            _flush(partial)
        except (OSError, RuntimeError) as error:
            left = shutil.disk_usage(path.parent).free
            if left + partial.stat().st_size < needed or left < 1 << 16:
                raise RunFailed(_full(path, needed, left)) from error
            raise
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _flush(path.parent)


def link_checkpoint(path: Path, name: Path) -> None:
    """Gives the file at `path` another name, in place of what has that name; a copy where files cannot have two."""
    partial = name.with_name(f".{name.name}.{os.getpid()}.part")
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:
        shutil.copyfile(path, partial)
        _flush(partial)
    partial.replace(name)
    partial.unlink(missing_ok=True)  # two names of one file: replacing one by the other does nothing
    _flush(name.parent)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads the checkpoint at `path`, on the CPU. Nothing in it is run: it holds tensors and plain values.

    Raises:
        UserError: when it is no complete checkpoint, holds more than data, or was written by an older version.
    """
    import torch

    if fault := find_fault(path):
        raise UserError(f"{path}: {fault}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds code, and not data alone: not loaded") from error
    if (found := checkpoint.get("format") if isinstance(checkpoint, dict) else None) != FORMAT:
        raise UserError(f"{path} has format {found}, not {FORMAT}: git checkout 3b74302 reads what was written before")
    return checkpoint


def find_fault(path: Path) -> str | None:
    """Why the file at `path` cannot be a complete checkpoint, by its checksums alone; None where it can."""
    if not path.is_file():
        return "no such file"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            whole = any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError):
        return "no complete checkpoint: it is cut short, or something else"
    if damaged:
        return f"damaged: the checksum of its part {damaged} is wrong"
    return None if whole else "no checkpoint, but an archive of something else"


def remove_partial_files(folder: Path) -> None:
    """Removes what writers that were killed have left in `folder`."""
    for partial in folder.glob(".*.part"):
        partial.unlink(missing_ok=True)


def _tensors(value: Any) -> "Iterator[Tensor]":
    """Every tensor in a tree of dictionaries and lists; those that share memory once."""
    import torch

    seen, rest = set(), [value]
    while rest:
        item = rest.pop()
        if isinstance(item, torch.Tensor):
            if item.untyped_storage().data_ptr() not in seen:
                seen.add(item.untyped_storage().data_ptr())
                yield item
        elif isinstance(item, dict):
            rest += item.values()
        elif isinstance(item, list | tuple):
            rest += item


def _flush(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full(path: Path, needed: int, free: int) -> str:
    return (
        f"no room for {path}: it needs {needed:,} bytes, and {free:,} are free\n"
        f"what was saved before is still there; make room, and go on: python src/train.py resume={path.parents[1]}"
    )
