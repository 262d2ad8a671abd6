"""The format of `run.json`, `sweep.json` and checkpoints: a number, raised when older files can no longer be read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.engine.utils.errors import UserError

FORMAT = 2
OLDER = "3b74302"  # the commit that reads what bears no number


def check_format(content: Mapping[str, Any], path: Path) -> None:
    """Refuses what another version wrote.

    Raises:
        UserError: with the commit that reads it.
    """
    found = content.get("format")
    if found is None:
        raise UserError(f"{path} was written by an older version: commit {OLDER} reads it")
    if found != FORMAT:
        raise UserError(f"{path} has format {found}, and this version reads format {FORMAT}")
