"""Several ranks end together, in bounded time, and say what one of them died of: real processes and signals."""

import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.distributed.heartbeat import Heartbeat, Pulse, detect_failure
from tests.conftest import SMALL
from tests.processes import ENOUGH, await_end, await_epoch, begin, members, the_run

HOST = socket.gethostname()
LONG = [*SMALL, "model=mlp", "data.batch_size=10", "trainer.max_epochs=2000", "trainer=ddp_cpu", "logger=none"]


@pytest.mark.slow
@pytest.mark.parametrize("told", [[0], [1], [0, 1]], ids=["rank 0", "rank 1", "both"])
@pytest.mark.parametrize("launcher", ["src/train.py", "tests/torchrun.py"], ids=["lightning", "torchrun"])
def test_a_signal_to_any_rank_stops_all_with_one_checkpoint(
    told: Sequence[int], launcher: str, tmp_path: Path, data_dir: Path
) -> None:
    process = begin(tmp_path, data_dir, *LONG, script=launcher)
    await_epoch(tmp_path, process)
    ranks = members(tmp_path)
    assert sorted(ranks) == [0, 1]
    for rank in told:
        os.kill(ranks[rank], signal.SIGTERM)
    status = await_end(tmp_path, process)
    assert status == (143 if launcher == "src/train.py" else 1), (tmp_path / "err").read_text()  # torchrun's own
    run = the_run(tmp_path)
    assert run.status == "preempted"
    assert sorted(p.name for p in (run.dir / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert len(read_checkpoint(run.checkpoint("last"))["random"]) == 2
    assert f"resume={run.dir}" in (tmp_path / "out").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise:0:3", "KeyError: 'the fault'"),
        ("raise:1:3", f"rank 1 on {HOST} failed first: KeyError: 'the fault'"),
        ("kill:1:3", f"rank 1 on {HOST} failed first: killed by SIGKILL"),
        ("sleep:1:3", f"rank 1 on {HOST} failed first: it has made no progress for 4 s"),
        ("sleep:0:3", f"rank 0 on {HOST} failed first: it has made no progress for 4 s"),
    ],
)
def test_a_rank_that_fails_ends_all_and_is_named(fault: str, said: str, tmp_path: Path, data_dir: Path) -> None:
    process = begin(tmp_path, data_dir, *LONG, "callbacks.watchdog.timeout=4", script="tests/faulty.py", FAULT=fault)
    over = time.monotonic() + 60
    while "MLP:" not in (tmp_path / "out").read_text() and time.monotonic() < over:
        time.sleep(0.05)
    status = await_end(tmp_path, process, 4 + ENOUGH)
    assert status == 1
    told = (tmp_path / "err").read_text()
    assert said in told
    run = the_run(tmp_path)
    assert run.status == "failed"
    assert said.rpartition(":")[2].strip() in run.metadata["error"]
    if fault.startswith("raise"):
        log = (run.dir / "train.log").read_text()
        assert "Traceback" in log
        assert 'raise KeyError("the fault")' in log
        assert str(run.dir / "train.log") in told.splitlines()[-1]
    if fault.startswith("sleep"):
        assert "in training_step" in told, "where it sleeps"


@pytest.mark.slow
def test_a_step_takes_no_collective_but_that_of_its_gradients(tmp_path: Path, data_dir: Path) -> None:
    words = [*LONG, "trainer.max_epochs=1", "model.batch_norm=false"]  # whose statistics DDP sends, too
    process = begin(tmp_path, data_dir, *words, script="tests/counted.py")
    assert await_end(tmp_path, process, 60) == 0, (tmp_path / "err").read_text()
    assert "collectives: {'c10d::allreduce_': 5}\n" in (tmp_path / "out").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_amid_the_test_stops_all(told: int, tmp_path: Path, data_dir: Path) -> None:
    brief = [*LONG, "trainer.max_epochs=1", "data.eval_batch_size=10"]
    process = begin(tmp_path, data_dir, *brief, script="tests/faulty.py", FAULT=f"stop:{told}:2")
    assert await_end(tmp_path, process, 60 + ENOUGH) == 143, (tmp_path / "err").read_text()
    assert the_run(tmp_path).status == "preempted"
    process = begin(tmp_path, data_dir, "resume=latest")
    assert await_end(tmp_path, process, 60 + ENOUGH) == 0, (tmp_path / "err").read_text()
    assert {"train/loss", "val/acc", "test/acc"} <= set(the_run(tmp_path).metrics)


def test_only_ranks_at_work_are_expected_to_be_heard() -> None:
    """Rank 0 may have things to do at the end that take it longer than the silence of one that is done."""
    now = 100.0
    well, silent = Pulse(Heartbeat(9, "far", batches=3), now, now), Pulse(Heartbeat(5, "far", batches=3), now - 99, now)
    assert (
        detect_failure({0: well, 1: Pulse(Heartbeat(-1, "far", batches=3, done=True), now - 99, now)}, now, 600) is None
    )
    assert detect_failure({0: well, 1: silent}, now, 600) == "rank 1 on far failed first: no heartbeat for 15 s"


def test_of_ranks_that_do_not_come_further_the_one_that_waits_for_nobody_is_to_blame() -> None:
    now = 100.0
    waits = Pulse(Heartbeat(9, "far", batches=3, position="a.py:1 in f", waiting=True), now, now - 5)
    works = Pulse(Heartbeat(9, "far", batches=3, position="b.py:2 in g"), now, now - 5)
    assert detect_failure({0: waits, 1: works}, now, 6) is None
    told = detect_failure({0: waits, 1: works}, now, 4)
    assert told == "rank 1 on far failed first: it has made no progress for 4 s (rank 1 at b.py:2 in g)"
    not_begun = Pulse(Heartbeat(9, "far"), now, now - 5)
    assert detect_failure({0: not_begun, 1: not_begun}, now, 4) is None, "before the first batch data may be prepared"


@pytest.mark.slow
def test_rank_0_killed_leaves_no_other(tmp_path: Path, data_dir: Path) -> None:
    process = begin(tmp_path, data_dir, *LONG)
    await_epoch(tmp_path, process)
    os.kill(members(tmp_path)[0], signal.SIGKILL)
    assert await_end(tmp_path, process) == -signal.SIGKILL
    assert the_run(tmp_path).status == "failed"
    record = json.loads((the_run(tmp_path).dir / "run.json").read_text())
    assert record["pid"] == process.pid
