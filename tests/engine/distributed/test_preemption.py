"""Real signals at real runs: each ends with its status and a checkpoint, and goes on to the same end."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from lab.engine.distributed.preemption import SignalHandler
from lab.engine.runs.run import Run
from lab.engine.utils.paths import ROOT
from tests.conftest import SMALL, Command
from tests.engine.runs.test_resume import assert_equal, result
from tests.processes import await_end, await_epoch, begin, members, the_run

# some 5 s of steps, and between them validations that are as long
RUN = [
    *SMALL,
    "data.batch_size=10",
    "model=mlp",
    "model.dropout=0.2",
    "data.eval_batch_size=1",
    "trainer.max_epochs=60",
    "trainer.limit_test_batches=5",
]
SIGNALS = 4


def await_step(tmp_path: Path) -> None:
    """Until the run is in a step that does not come to its end."""
    over = time.monotonic() + 60
    while "MLP:" not in (tmp_path / "out").read_text():
        assert time.monotonic() < over
        time.sleep(0.05)
    time.sleep(2)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Run:
    folder = tmp_path_factory.mktemp("straight")
    assert await_end(folder, begin(folder, data_dir, *RUN), 120) == 0
    return the_run(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signals_at_random_moments(signum: int, status: int, straight: Run, tmp_path: Path, data_dir: Path) -> None:
    chance = random.Random(signum)
    process = begin(tmp_path, data_dir, *RUN)
    for i in range(SIGNALS):
        await_epoch(tmp_path, process, epoch=2 + 12 * i)
        time.sleep(chance.uniform(0, 0.3))
        os.kill(process.pid, signum)
        assert await_end(tmp_path, process) == status, (tmp_path / "err").read_text()
        run = the_run(tmp_path)
        assert run.status == "preempted"
        assert run.metadata["signal"] == signal.Signals(signum).name
        assert "Traceback" not in (tmp_path / "err").read_text()
        process = begin(tmp_path, data_dir, "resume=latest")
    assert await_end(tmp_path, process, 120) == 0
    assert len(run.metadata["resumed"]) == SIGNALS
    assert_equal(result(straight), result(run))


@pytest.mark.slow
def test_a_kill_loses_what_came_after_the_last_checkpoint_and_nothing_else(
    straight: Run, tmp_path: Path, data_dir: Path
) -> None:
    process = begin(tmp_path, data_dir, *RUN, "callbacks.checkpoint.every_n_steps=7")
    for epoch in (5, 20):
        await_epoch(tmp_path, process, epoch)
        os.kill(process.pid, signal.SIGKILL)
        assert await_end(tmp_path, process) == -signal.SIGKILL
        process = begin(tmp_path, data_dir, "resume=latest")
    assert await_end(tmp_path, process, 120) == 0
    assert_equal(result(straight), result(the_run(tmp_path)))


@pytest.mark.slow
def test_two_ranks_go_on_as_two_ranks(tmp_path: Path, data_dir: Path) -> None:
    two = [*RUN, "trainer=ddp_cpu", "trainer.max_epochs=20"]
    (tmp_path / "straight").mkdir()
    assert await_end(tmp_path / "straight", begin(tmp_path / "straight", data_dir, *two), 120) == 0
    (tmp_path / "stopped").mkdir()
    process = begin(tmp_path / "stopped", data_dir, *two)
    for i, (rank, epoch) in enumerate([(1, 3), (0, 9)]):
        await_epoch(tmp_path / "stopped", process, epoch)
        os.kill(members(tmp_path / "stopped")[rank], signal.SIGTERM)
        assert await_end(tmp_path / "stopped", process) == 143, i
        process = begin(tmp_path / "stopped", data_dir, "resume=latest")
    assert await_end(tmp_path / "stopped", process, 120) == 0, (tmp_path / "stopped" / "err").read_text()
    assert_equal(result(the_run(tmp_path / "straight")), result(the_run(tmp_path / "stopped")))


@pytest.mark.parametrize("is_in_step", [True, False], ids=["ranks wait for each other", "ranks are far apart"])
@pytest.mark.parametrize("seed", range(10))
def test_ranks_stop_at_the_same_question(seed: int, is_in_step: bool) -> None:
    """Three ranks, as threads: with a barrier in each step, as gradients are one, or with none."""
    draw, store, ranks = random.Random(seed), HashStore(), range(3)
    handlers, barrier, over = [SignalHandler() for _ in ranks], threading.Barrier(len(ranks)), threading.Event()
    asked = dict.fromkeys(ranks, 0)
    for handler in handlers:
        handler.is_shared = True

    def watch(rank: int, pause: float) -> None:
        while not over.wait(pause):
            handlers[rank].agree(store, rank, len(ranks))

    def train(rank: int, pause: float) -> None:
        signum = 0
        while not signum:
            time.sleep(pause)
            if is_in_step:
                barrier.wait(10)
            signum = handlers[rank].received()
            asked[rank] += 1

    watching = [threading.Thread(target=watch, args=(rank, draw.uniform(0.001, 0.02))) for rank in ranks]
    training = [threading.Thread(target=train, args=(rank, draw.uniform(0.002, 0.01)), daemon=True) for rank in ranks]
    for thread in (*watching, *training):
        thread.start()
    time.sleep(draw.uniform(0, 0.1))
    for rank in draw.sample(ranks, draw.randint(1, 3)):
        handlers[rank].signum = signal.SIGTERM
    for thread in training:
        thread.join(10)
    over.set()
    for thread in watching:
        thread.join()
    assert not any(thread.is_alive() for thread in training), "deadlock"
    assert len(set(asked.values())) == 1, asked
    assert {handler.signum for handler in handlers} == {signal.SIGTERM}


@pytest.mark.slow
def test_the_second_signal_ends_at_once(tmp_path: Path, data_dir: Path) -> None:
    process = begin(tmp_path, data_dir, *RUN, "callbacks.watchdog=null", script="tests/faulty.py", FAULT="sleep:0:3")
    await_step(tmp_path)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None, "the first waits for the end of the step"
    os.kill(process.pid, signal.SIGINT)
    assert await_end(tmp_path, process, 5) == 130
    assert "a second signal ends at once" in (tmp_path / "err").read_text()


@pytest.mark.slow
def test_what_several_send_at_once_is_one_signal(tmp_path: Path, data_dir: Path) -> None:
    """A shell and a terminal that close both send SIGHUP; what `nohup` ignores stays ignored."""
    process = begin(tmp_path, data_dir, *RUN)
    await_epoch(tmp_path, process)
    # Stopped, it hears all of them at once, in the order of their numbers; else any thread may hear SIGTERM first
    for signum in (signal.SIGSTOP, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGCONT):
        os.kill(process.pid, signum)
    assert await_end(tmp_path, process) == 129, (tmp_path / "err").read_text()
    assert the_run(tmp_path).status == "preempted"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = begin(tmp_path, data_dir, "resume=latest")
    finally:
        signal.signal(signal.SIGHUP, before)
    await_epoch(tmp_path, process, epoch=20)
    os.kill(process.pid, signal.SIGHUP)
    assert await_end(tmp_path, process, 120) == 0


@pytest.mark.slow
def test_a_quota_ends_a_run_with_one_error(tmp_path: Path, data_dir: Path) -> None:
    words = [
        f"paths.data_dir={data_dir}",
        f"paths.log_dir={tmp_path}/logs",
        *SMALL,
        "model=mlp",
        "trainer.max_epochs=3",
    ]
    shell = f'ulimit -f 400; exec "{sys.executable}" "{ROOT}/src/train.py" "$@"'
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = ["bash", "-c", shell, "bash", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 5
    for part in ("no room for", "File too large", f"resume={the_run(tmp_path).dir}"):
        assert part in done.stderr
    assert not [*tmp_path.rglob("*.part")]


@pytest.mark.slow
def test_a_signal_before_the_first_step_leaves_no_checkpoint(tmp_path: Path, data_dir: Path) -> None:
    process = begin(tmp_path, data_dir, *RUN)
    over = time.monotonic() + 60
    while not list((tmp_path).glob("logs/runs/*/*/run.json")):
        assert time.monotonic() < over
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert await_end(tmp_path, process) == 143
    assert the_run(tmp_path).status == "preempted"


@pytest.mark.slow
def test_slurms_warning_saves_and_puts_the_job_back(
    tmp_path: Path, data_dir: Path, train_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon itself is started in tests/test_slurm.py; here `scontrol` writes down what it was asked."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "42", "PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    process = begin(tmp_path, data_dir, *RUN, **slurm)
    await_epoch(tmp_path, process)
    os.kill(process.pid, signal.SIGUSR1)
    os.kill(process.pid, signal.SIGTERM)  # which it warned of
    assert await_end(tmp_path, process) == 143
    run = the_run(tmp_path)
    assert run.status == "preempted"
    assert run.metadata["signal"] == "SIGUSR1"
    assert (tmp_path / "asked").read_text() == "requeue 42\n"
    process = begin(tmp_path, data_dir, *RUN, **slurm, SLURM_RESTART_COUNT="1")  # the same words again
    assert await_end(tmp_path, process, 120) == 0, (tmp_path / "err").read_text()
    assert the_run(tmp_path).status == "completed"
    assert json.loads((run.dir / "run.json").read_text())["resumed"]


@pytest.mark.slow
def test_slurms_warning_is_no_first_signal(tmp_path: Path, data_dir: Path) -> None:
    fault = {"script": "tests/faulty.py", "FAULT": "sleep:0:3", "SLURM_JOB_ID": "42"}
    process = begin(tmp_path, data_dir, *RUN, "callbacks.watchdog=null", **fault)
    await_step(tmp_path)
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1, signal.SIGTERM):
        os.kill(process.pid, signum)
        time.sleep(0.5)
        assert process.poll() is None, f"{signum}: the step has not come to its end"
    os.kill(process.pid, signal.SIGTERM)
    assert await_end(tmp_path, process, 5) == 143


@pytest.mark.slow
def test_out_of_memory_says_what_to_do(tmp_path: Path, data_dir: Path) -> None:
    process = begin(tmp_path, data_dir, *RUN, script="tests/faulty.py", FAULT="memory:0:3")
    assert await_end(tmp_path, process, 60) == 1
    told = (tmp_path / "err").read_text()
    assert "data.batch_size=5 trainer.accumulate_grad_batches=2" in told
    assert "Traceback" not in told
