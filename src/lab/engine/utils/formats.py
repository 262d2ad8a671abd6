"""Numbers the format of `run.json`, `sweep.json` and checkpoints: raised when older files can no longer be read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.engine.utils.errors import UserError

FORMAT = 2
OLDER = "3b74302"  # the commit that reads files without a number


def check_format(content: Mapping[str, Any], path: Path) -> None:
    """Refuses a file that another version wrote.

    Raises:
        UserError: with the commit that reads it.
    """
    number = content.get("format")
    if number is None:
        raise UserError(f"{path} was written by an older version: commit {OLDER} reads it")
    if number != FORMAT:
        raise UserError(f"{path} has format {number}, and this version reads format {FORMAT}")
