"""Numbers the format of `run.json`, `sweep.json` and checkpoints: raised when older files can no longer be read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.engine.utils.errors import UserError

FORMAT = 4
# Commits that read older formats; the first files had no number
READERS = {None: "3b74302", 2: "ed1b022", 3: "57d58bc"}


def check_format(content: Mapping[str, Any], path: Path) -> None:
    """Refuses a file that another version wrote.

    Raises:
        UserError: with the commit that reads it.
    """
    number = content.get("format")
    if number in READERS:
        raise UserError(f"{path} was written by an older version: commit {READERS[number]} reads it")
    if number != FORMAT:
        raise UserError(f"{path} has format {number}, and this version reads format {FORMAT}")
