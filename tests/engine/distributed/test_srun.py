"""srun's ranks: named when they are lost, refused together. Slurm by itself ends a step of which a task has failed."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.engine.distributed.test_torchrun import ALL_END, HOST, LONG, REFUSED
from tests.processes import errors, fault_time, members, named, slowdown, the_run
from tests.slurm import Slurm, await_that, command, slurm

__all__ = ["slurm"]

pytestmark = pytest.mark.slow

# The second is Slurm's own default: then nobody but the ranks ends the others
LAUNCHERS = pytest.mark.parametrize("launcher", ["srun", "srun --kill-on-bad-exit=0"])


def submit(slurm: Slurm, launcher: str, tmp_path: Path, data_dir: Path, fault: str = "") -> str:
    """Queues a job of two ranks on one node, of which one may have a fault; its number."""
    words = [*LONG, f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}/logs"]
    line, variables = f"{launcher} {command(*words)}", {"FAULT": fault} if fault else {}
    if fault:
        line = line.replace("src/train.py", "tests/faulty.py")
    return slurm.submit(tmp_path, line, "--nodes=1", "--ntasks-per-node=2", **variables)


def await_end(slurm: Slurm, job: str, tmp_path: Path, seconds: float) -> float:
    """Waits until no process of the job is left, neither of its ranks nor of srun, and Slurm says that it failed; when
    the last process ended.
    """
    try:
        await_that(lambda: not processes(tmp_path), seconds)
        ended = time.monotonic()
        slurm.await_state(job, "FAILED")
        return ended
    finally:
        for number in processes(tmp_path):
            os.kill(number, signal.SIGKILL)


def await_text(path: Path, text: str) -> None:
    """Waits until the job has written a text."""
    await_that(lambda: path.exists() and text in path.read_text())


def processes(tmp_path: Path) -> list[int]:
    """The processes with the run's log directory in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"={tmp_path}/logs".encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def assert_named(rank: int, tmp_path: Path) -> None:
    """The user has been told once which rank failed, and the run says so, too."""
    assert len(named(rank, HOST, tmp_path / "err")) == 1, (tmp_path / "err").read_text()
    assert len(errors(tmp_path / "err")) == 1
    run = the_run(tmp_path)
    assert run.status == "failed"
    assert f"rank {rank} on {HOST}" in run.metadata["error"]


@LAUNCHERS
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_rank_ends_all_and_is_named(
    rank: int, how: str, launcher: str, slurm: Slurm, tmp_path: Path, data_dir: Path
) -> None:
    job = submit(slurm, launcher, tmp_path, data_dir)
    await_text(tmp_path / "out", "epoch 2/")
    began = time.monotonic()
    os.kill(members(tmp_path)[rank], signal.Signals[how])
    ended = await_end(slurm, job, tmp_path, ALL_END)
    print(f"{launcher} {how} rank {rank}: {ended - began:.1f} s")
    assert_named(rank, tmp_path)


@LAUNCHERS
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_raises_ends_all_and_is_named(
    rank: int, launcher: str, slurm: Slurm, tmp_path: Path, data_dir: Path
) -> None:
    job = submit(slurm, launcher, tmp_path, data_dir, f"raise:{rank}:3")
    await_text(tmp_path / "out", "fault at")
    took = await_end(slurm, job, tmp_path, ALL_END) - fault_time(tmp_path / "out")
    print(f"{launcher} raise in rank {rank}: {took:.1f} s")
    assert took < ALL_END
    assert_named(rank, tmp_path)


@LAUNCHERS
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_refused_ends_all_within_five_seconds(
    rank: int, launcher: str, slurm: Slurm, tmp_path: Path, data_dir: Path
) -> None:
    job = submit(slurm, launcher, tmp_path, data_dir, f"refuse:{rank}:0")
    await_text(tmp_path / "err", "error: ")
    told = time.monotonic()
    ended, refused = await_end(slurm, job, tmp_path, ALL_END), fault_time(tmp_path / "out")
    print(f"{launcher} refusal of rank {rank}: told after {told - refused:.1f} s, ended {ended - told:.1f} s later")
    assert ended - told < REFUSED * slowdown()
    assert len(errors(tmp_path / "err")) == 1, (tmp_path / "err").read_text()
    assert the_run(tmp_path).status == "failed"
