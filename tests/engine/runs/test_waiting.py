"""A job that goes on while a process that a killed sweep left still trains in its directory."""

import fcntl
from pathlib import Path

import pytest

from lab.engine.runs.resume import resumed_config
from lab.engine.utils.errors import UserError
from lab.engine.utils.formats import FORMAT
from tests.conftest import Compose
from tests.recorded import record


def test_it_says_what_it_waits_for_and_for_how_long(
    cfg: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = record(tmp_path / "stray", status="running", pid=4711, hostname="elsewhere", format=FORMAT)
    config = cfg("resume=auto", f"paths.run_dir={run}")
    monkeypatch.setattr("lab.engine.runs.resume.LOCK_TIMEOUT", 0.2)
    with (run / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="by process 4711 on elsewhere: wait, or stop it"):
            resumed_config(config)
    for said in (str(run), "process 4711 on elsewhere", "waiting for it, at most"):
        assert said in caplog.text
    assert resumed_config(config).resume is None, "it is gone"
