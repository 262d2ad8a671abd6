"""A directory's lock keeps out everybody else, those that waited for it too."""

import fcntl
from pathlib import Path

import pytest

from lab.engine.utils.errors import UserError
from lab.engine.utils.locks import directory_lock


def test_who_waited_for_a_lock_keeps_others_out(tmp_path: Path) -> None:
    """It has opened the file before the first holder lets go, and locks that very file then."""
    with directory_lock(tmp_path, "is used"):
        waiting = (tmp_path / ".lock").open()
    with waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(UserError, match=f"{tmp_path} is used"), directory_lock(tmp_path, "is used"):
            pass
    with directory_lock(tmp_path, "is used"):
        pass
