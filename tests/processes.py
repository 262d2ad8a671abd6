"""Runs as processes that can be waited for, told to stop and looked at."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lab.engine.runs.run import Run
from lab.engine.utils.paths import ROOT

ENOUGH = 15  # seconds in which all ranks must have left


def begin(
    tmp_path: Path, data_dir: Path, *words: str, script: str = "src/train.py", **environment: str
) -> "subprocess.Popen[str]":
    """A run in a session of its own, its output in files."""
    paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}/logs"]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, str(ROOT / script), *words, *paths],
            stdout=out,
            stderr=err,
            text=True,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | environment,
        )


def await_epoch(tmp_path: Path, process: "subprocess.Popen[str]", epoch: int = 2, seconds: float = 120) -> None:
    """Until the run has come to the end of an epoch."""
    over = time.monotonic() + seconds
    while f"epoch {epoch}/" not in (tmp_path / "out").read_text():
        assert process.poll() is None, (tmp_path / "err").read_text()
        assert time.monotonic() < over, "it does not get on"
        time.sleep(0.05)


def members(tmp_path: Path) -> dict[int, int]:
    """The processes that train under `tmp_path`: process number by rank. torchrun's own is none of them."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            variables = dict(v.partition("=")[::2] for v in (folder / "environ").read_bytes().decode().split("\0"))
        except (OSError, UnicodeDecodeError):
            continue
        trains = any(f"={tmp_path}/logs" in word for word in words)  # by its log_dir, or the run that it attaches to
        if trains and not any(word.endswith("torchrun.py") for word in words):
            found[int(variables.get("LOCAL_RANK") or 0)] = int(folder.name)
    return found


def await_end(tmp_path: Path, process: "subprocess.Popen[str]", seconds: float = ENOUGH) -> int:
    """The exit status, once every process of the run is gone."""
    over = time.monotonic() + seconds
    try:
        status = process.wait(timeout=seconds)
        while members(tmp_path):
            assert time.monotonic() < over, f"still there: {members(tmp_path)}"
            time.sleep(0.05)
        return status
    finally:
        for number in [*members(tmp_path).values(), *([process.pid] if process.poll() is None else [])]:
            os.kill(number, signal.SIGKILL)
        process.wait()


def the_run(tmp_path: Path) -> Run:
    [directory] = (tmp_path / "logs" / "runs").glob("*/*")
    return Run(directory)
