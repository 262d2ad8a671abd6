"""Runs as processes that can be waited for, told to stop and looked at."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.engine.runs.run import Run
from lab.engine.utils.paths import ROOT

ENOUGH = 15  # seconds in which all ranks must have left

Forked = Callable[..., tuple[int, str]]


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
    """The processes that train under `tmp_path`: process number by rank; without those of torchrun and srun."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            variables = dict(v.partition("=")[::2] for v in (folder / "environ").read_bytes().decode().split("\0"))
        except (OSError, UnicodeDecodeError):
            continue
        trains = any(f"={tmp_path}/logs" in word for word in words)  # by its log_dir, or the run that it attaches to
        if trains and not any(word.endswith(("torchrun.py", "srun")) for word in words):
            ranks = (variables.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
            found[int(next(filter(None, ranks), 0))] = int(folder.name)
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


def errors(path: Path) -> list[str]:
    """The lines that tell the user of an error."""
    return [line for line in path.read_text().splitlines() if line.startswith("error:")]


def named(rank: int, host: str, *paths: Path) -> list[str]:
    """The lines that tell the user that a rank failed first."""
    lines = [line for path in paths for line in path.read_text().splitlines()]
    return [line for line in lines if f"rank {rank} on {host} failed first" in line]


def fault_time(*paths: Path) -> float:
    """When tests/faulty.py printed to one of the files that a rank fails."""
    [line] = [line for path in paths for line in path.read_text().splitlines() if line.startswith("fault at")]
    return float(line.split()[-1])


def slowdown() -> float:
    """By how much this machine is slower than when it has nothing else to do."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def the_run(tmp_path: Path) -> Run:
    [directory] = (tmp_path / "logs" / "runs").glob("*/*")
    return Run(directory)


@contextmanager
def forked(checkout: Path, folder: Path | None = None) -> Iterator[Forked]:
    """Runs scripts of a checkout by `zygote.py`: takes a script and its words, returns its status and what it says.

    With `seconds` it and its processes are killed after them.

    Args:
        checkout: where its scripts begin.
        folder: where they run; the checkout by default.
    """
    folder = folder or checkout
    said = folder / "said"
    environment = {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    with subprocess.Popen(
        [sys.executable, "-P", str(ROOT / "tests" / "zygote.py")],  # whose folder holds the text of `guests`
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        cwd=checkout,
    ) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        stdin, stdout = zygote.stdin, zygote.stdout

        def run(script: str, *words: str, seconds: float | None = None) -> tuple[int, str]:
            said.unlink(missing_ok=True)
            job = {"script": str(checkout / script), "words": words, "out": str(said), "cwd": str(folder)}
            print(json.dumps(job | {"seconds": seconds}), file=stdin, flush=True)
            status = int(stdout.readline())
            return status, said.read_text()

        yield run
        stdin.close()
        assert zygote.wait(30) == 0
