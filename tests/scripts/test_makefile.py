"""The servers that the Makefile starts listen to this machine alone."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lab.engine.utils.paths import ROOT

SERVERS = re.compile(
    r"tensorboard|mlflow|jupyter|http\.server|wandb|optuna-dashboard|streamlit|gradio|uvicorn|ray start"
)
LOOPBACK = re.compile(r"--(host|ip|bind|server\.address)[= ](127\.0\.0\.1|localhost)\b")
RECIPES = [line.strip() for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t")]


def test_every_server_is_bound_to_loopback() -> None:
    servers = [recipe for recipe in RECIPES if SERVERS.search(recipe)]
    assert servers, "the Makefile starts none: is the pattern out of date?"
    for recipe in servers:
        assert LOOPBACK.search(recipe), recipe
        assert not re.search(r"bind_all|0\.0\.0\.0|\[?::\]?(\s|$)", recipe), recipe


def listening(pid: int) -> set[str]:
    """The addresses, in hexadecimal, that a process listens to."""
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()]
    return {row[1].partition(":")[0] for row in rows[1:] if row[3] == "0A" and row[9] in inodes}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="looks into Linux's /proc")
def test_tensorboard_listens_to_this_machine_alone(tmp_path: Path) -> None:
    [recipe] = [recipe for recipe in RECIPES if "/tensorboard " in recipe]
    words = recipe.replace("$(BIN)/tensorboard", "").replace("--logdir logs", "").split()
    command = [sys.executable, "-m", "tensorboard.main", *words, "--logdir", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as board:
        stop = threading.Timer(60, board.kill)
        stop.start()
        try:
            assert board.stderr is not None
            said = ""
            while "http://" not in said:
                line = board.stderr.readline()
                assert line, f"it has not begun to serve:\n{said}"
                said += line
            assert "http://127.0.0.1:" in said
            assert listening(board.pid) == {"0100007F"}  # 127.0.0.1, its lowest byte first
        finally:
            stop.cancel()
            board.kill()
