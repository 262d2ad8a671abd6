"""Finds what `in=` stands for: a part of the run's data, or files that the data reads. Loads no torch."""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

SPLITS = ("train", "val", "test", "predict")


@dataclass(frozen=True)
class Input:
    """What is to be read.

    Args:
        given: by the user.
        files: none for a split.
        what: `split`, `file`, `folder` or `pattern`.
    """

    given: str
    files: tuple[Path, ...] = ()
    what: str = "split"

    @property
    def is_split(self) -> bool:
        return self.what == "split"


def find_input(given: str) -> Input:
    """Finds what `in=` names.

    Raises:
        UserError: when nothing is there.
    """
    path = Path(given)
    if given in SPLITS:
        return Input(given)
    if path.is_file():
        return Input(given, (path,), "file")
    if path.is_dir():
        return _several(given, sorted(path.iterdir()), "folder")
    if glob.has_magic(given):
        return _several(given, [Path(found) for found in sorted(glob.glob(given, recursive=True))], "pattern")
    beside = path.parent.iterdir() if path.parent.is_dir() else []
    near = nearest(given, SPLITS) or nearest(path.name, [p.name for p in beside])
    raise UserError(
        f"in={given}: no such file{near}\nin= takes a part of the run's data ({', '.join(SPLITS)}), or what its data"
        " reads: a file, a folder or a pattern of files"
    )


def _several(given: str, paths: list[Path], what: str) -> Input:
    files = tuple(path for path in paths if path.is_file() and not path.name.startswith("."))
    if not files:
        raise UserError(f"in={given}: this {what} holds no file")
    return Input(given, files, what)


def readable_files(found: Input, data: Any) -> list[Path]:
    """Returns the files that the run's data reads: its `predict_suffixes` say which, those of a folder are picked out.

    Raises:
        UserError: when the data has no `predict_inputs`, or reads none of the files.
    """
    name = type(data).__name__
    if not hasattr(data, "predict_inputs"):
        raise UserError(
            f"in={found.given}: the run's data ({name}) has no predict_inputs: it reads no files to predict\n"
            f"in= takes its parts: {', '.join(SPLITS)}"
        )
    suffixes = getattr(data, "predict_suffixes", None)
    files = [path for path in found.files if suffixes is None or path.suffix.lower() in suffixes]
    if not files:
        raise UserError(
            f"in={found.given}: the run's data ({name}) reads {', '.join(suffixes or ())}, and this {found.what} is or"
            " holds none"
        )
    return files
