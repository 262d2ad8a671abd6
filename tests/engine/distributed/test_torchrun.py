"""torchrun's ranks, on one machine and on two: named when they are lost, started again, refused together."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.engine.runs.run import Run
from lab.engine.utils.paths import ROOT
from tests.conftest import SMALL
from tests.engine.runs.test_resume import assert_equal, result
from tests.nodes import ADDRESSES, Nodes, nodes
from tests.processes import (
    await_end,
    await_epoch,
    begin,
    errors,
    fault_time,
    members,
    named,
    slowdown,
    the_run,
)

__all__ = ["nodes"]

pytestmark = pytest.mark.slow

RUN = [*SMALL, "model=mlp", "data.batch_size=10", "trainer=ddp_cpu", "logger=tensorboard"]
LONG = [*RUN, "trainer.max_epochs=2000"]
ALL_END = 30  # seconds
REFUSED = 5  # seconds after the message, on a machine that has nothing else to do: Python takes one to end with torch
HOST = socket.gethostname()
Started = tuple[list["subprocess.Popen[bytes]"], list[Path]]


def lose(pid: int, how: str) -> float:
    """Sends the signal that loses a rank; the time."""
    os.kill(pid, signal.Signals[how])
    return time.monotonic()


def launched_by(launcher: str, script: str = "src/train.py") -> dict[str, str]:
    """What `begin` takes to start `script` by Lightning's launcher, or by torchrun."""
    shared = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1" if launcher.endswith("0") else "0"}
    return {"script": script if launcher == "lightning" else "tests/torchrun.py"} | shared


def await_error(process: "subprocess.Popen[str]", *paths: Path) -> float:
    """Waits until the user has been told of an error; the time."""
    over = time.monotonic() + 120
    while not any(errors(path) for path in paths):
        assert time.monotonic() < over, "no error"
        assert process.poll() is None, "no error"
        time.sleep(0.02)
    return time.monotonic()


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("launcher", ["lightning", "torchrun", "torchrun-store-of-rank-0"])
def test_a_lost_rank_ends_all_and_is_named(launcher: str, how: str, rank: int, tmp_path: Path, data_dir: Path) -> None:
    process = begin(tmp_path, data_dir, *LONG, **launched_by(launcher))
    await_epoch(tmp_path, process)
    began = lose(members(tmp_path)[rank], how)
    assert await_end(tmp_path, process, ALL_END) != 0
    print(f"{launcher} {how} rank {rank}: {time.monotonic() - began:.1f} s")
    told = errors(tmp_path / "err")
    assert len(told) == 1, (tmp_path / "err").read_text()
    assert told[0].startswith(f"error: rank {rank} on {HOST} failed first: ")
    assert the_run(tmp_path).status == "failed"
    assert f"rank {rank} on {HOST}" in the_run(tmp_path).metadata["error"]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("launcher", ["lightning", "torchrun", "torchrun-store-of-rank-0"])
def test_a_rank_that_raises_ends_all_and_is_named(launcher: str, rank: int, tmp_path: Path, data_dir: Path) -> None:
    process = begin(tmp_path, data_dir, *LONG, FAULT=f"raise:{rank}:3", **launched_by(launcher, "tests/faulty.py"))
    assert await_end(tmp_path, process, 120) == 1
    took = time.monotonic() - fault_time(tmp_path / "out")
    print(f"{launcher} raise in rank {rank}: {took:.1f} s")
    assert took < ALL_END
    assert len(named(rank, HOST, tmp_path / "err")) == 1, (tmp_path / "err").read_text()
    assert len(errors(tmp_path / "err")) == 1
    assert the_run(tmp_path).status == "failed"
    assert f"rank {rank} on {HOST}" in the_run(tmp_path).metadata["error"]
    assert "KeyError: 'the fault'" in the_run(tmp_path).metadata["error"]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("launcher", ["lightning", "torchrun", "torchrun-store-of-rank-0"])
def test_a_rank_that_is_refused_ends_all_within_five_seconds(
    launcher: str, rank: int, tmp_path: Path, data_dir: Path
) -> None:
    process = begin(tmp_path, data_dir, *LONG, FAULT=f"refuse:{rank}:0", **launched_by(launcher, "tests/faulty.py"))
    told = await_error(process, tmp_path / "err")
    assert await_end(tmp_path, process, ALL_END) in (1, 2)
    ended, refused = time.monotonic(), fault_time(tmp_path / "out")
    print(f"{launcher} refusal of rank {rank}: told after {told - refused:.1f} s, ended {ended - told:.1f} s later")
    assert ended - told < REFUSED * slowdown()
    assert len(errors(tmp_path / "err")) == 1, (tmp_path / "err").read_text()
    assert "the fault" in errors(tmp_path / "err")[0]
    assert the_run(tmp_path).status == "failed"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Run:
    folder = tmp_path_factory.mktemp("straight")
    process = begin(folder, data_dir, *RUN, "trainer.max_epochs=20", script="tests/torchrun.py")
    assert await_end(folder, process, 250) == 0, (folder / "err").read_text()
    return the_run(folder)


@pytest.mark.parametrize("is_named", [False, True], ids=["directory of its own", "named directory"])
@pytest.mark.parametrize("attempt", range(int(os.environ.get("TRIES", 2))))
def test_a_job_that_torchrun_starts_again_goes_on_to_the_same_weights(
    attempt: int, is_named: bool, straight: Run, tmp_path: Path, data_dir: Path
) -> None:
    place = [f"hydra.run.dir={tmp_path}/logs/runs/named/run"] if is_named else []
    options = "--nproc-per-node 2 --master-port 0 --standalone --max-restarts 2"
    words = [*RUN, "trainer.max_epochs=20", *place]
    process = begin(tmp_path, data_dir, *words, script="tests/torchrun.py", TORCHRUN=options)
    draw = random.Random(attempt)
    await_epoch(tmp_path, process, draw.randint(1, 10))
    time.sleep(draw.random())
    os.kill(members(tmp_path)[draw.randint(0, 1)], signal.SIGKILL)
    assert await_end(tmp_path, process, 200) == 0, (tmp_path / "err").read_text()
    run = the_run(tmp_path)
    assert run.status == "completed"
    assert len(run.metadata["resumed"]) == 1
    assert [each["jobs"]["torchrun"]["restarts"] for each in (run.metadata, *run.metadata["resumed"])] == [0, 1]
    assert_equal(result(straight), result(run))


@pytest.mark.timeout(600)
def test_an_elastic_job_goes_on_with_fewer_ranks_and_with_more(tmp_path: Path, data_dir: Path) -> None:
    """Two agents of a rank each: one is killed, and started again after a while; figures are those of one process."""
    words = [*RUN, "trainer.max_epochs=150", "optimizer=sgd", "optimizer.lr=1e-2"]
    words[words.index("model=mlp")] = "model=logistic_regression"  # whose loss has one minimum, whatever the rounding
    (tmp_path / "alone").mkdir()
    alone = begin(tmp_path / "alone", data_dir, *words, "trainer.devices=1", f"hydra.run.dir={tmp_path}/alone/run")
    assert await_end(tmp_path / "alone", alone, 200) == 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = (
        f"--nnodes 1:2 --nproc-per-node 1 --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port}"
        " --rdzv-id elastic --rdzv-conf last_call_timeout=5,is_host="
    )
    place = f"hydra.run.dir={tmp_path}/run"

    def agent(name: str) -> "subprocess.Popen[str]":
        (tmp_path / name).mkdir()
        return begin(
            tmp_path / name,
            data_dir,
            *words,
            place,
            script="tests/torchrun.py",
            TORCHRUN=options + str(name == "first"),
        )

    def starts() -> int:
        return 1 + len(Run(tmp_path / "run").metadata.get("resumed", []))

    def until(condition: Callable[[], bool]) -> None:
        over = time.monotonic() + 120
        while not condition():
            assert first.poll() is None, (tmp_path / "first" / "err").read_text()
            assert time.monotonic() < over, f"epoch {epoch()}, {starts()} starts"
            time.sleep(0.1)

    def epoch() -> int:
        said = "".join(path.read_text() for path in tmp_path.glob("*/out") if path.parent.name != "alone")
        return max(map(int, re.findall(r"epoch (\d+)/", said)), default=0)

    first = agent("first")
    second = agent("second")
    until(lambda: epoch() >= 5)
    for number in (second.pid, *members(tmp_path / "second").values()):  # as if its machine were lost
        os.kill(number, signal.SIGKILL)
    second.wait()
    until(lambda: starts() == 2 and epoch() > 5)
    assert Run(tmp_path / "run").metadata["devices"] == "1 x cpu"
    third = agent("third")
    assert await_end(tmp_path / "first", first, 300) == 0, (tmp_path / "first" / "err").read_text()
    assert await_end(tmp_path / "third", third, 60) == 0, (tmp_path / "third" / "err").read_text()
    run = Run(tmp_path / "run")
    assert (run.status, starts(), run.metadata["devices"]) == ("completed", 3, "2 x cpu")
    expected = Run(tmp_path / "alone" / "run").metrics
    for name in ("val/loss", "test/loss", "test/acc"):
        assert run.metrics[name] == pytest.approx(expected[name], rel=1e-5)


@pytest.mark.parametrize("launcher", ["torchrun", "torchrun-store-of-rank-0"])
@pytest.mark.parametrize("fault", ["word", "directory"])
def test_a_refusal_ends_all_ranks_with_one_message(fault: str, launcher: str, tmp_path: Path, data_dir: Path) -> None:
    words = {"word": ["model=mpl"], "directory": [f"hydra.run.dir={tmp_path}/taken"]}[fault]
    if fault == "directory":
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken" / "run.json").write_text("{}")
    process = begin(tmp_path, data_dir, *RUN, *words, **launched_by(launcher))
    told = await_error(process, tmp_path / "err")
    assert await_end(tmp_path, process, 60) == 1
    print(f"{launcher} refused {fault}: ended {time.monotonic() - told:.1f} s after the message")
    assert time.monotonic() - told < REFUSED * slowdown()
    assert len(errors(tmp_path / "err")) == 1, (tmp_path / "err").read_text()


@contextmanager
def two_nodes(nodes: Nodes, tmp_path: Path, data_dir: Path, **variables: str) -> Iterator[Started]:
    """Starts torchrun on both nodes: the processes and the folders of their output. None is left in the end."""
    started, folders = [], []
    for node, name in enumerate(nodes.names):
        folder = tmp_path / name
        folder.mkdir()
        folders.append(folder)
        options = f"--nnodes 2 --node-rank {node} --nproc-per-node 1 --master-addr {ADDRESSES[0]} --master-port 29500"
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "cable",
            "TORCHRUN": options,
            **variables,
        }
        paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}/logs"]
        words = [*LONG, *paths]
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            command = nodes.command(node, sys.executable, str(ROOT / "tests" / "torchrun.py"), *words)
            started.append(subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True))
    try:
        yield started, folders
    finally:
        for number in members(tmp_path).values():
            os.kill(number, signal.SIGKILL)
        for process in started:
            process.kill()
            process.wait()


def await_both(tmp_path: Path, started: "Sequence[subprocess.Popen[str]]", seconds: float) -> None:
    """Waits until nothing of the run is left on either node."""
    over = time.monotonic() + seconds
    for process in started:
        assert process.wait(max(0, over - time.monotonic())) != 0
    while members(tmp_path):
        assert time.monotonic() < over, members(tmp_path)
        time.sleep(0.1)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", ["SIGKILL 0", "SIGKILL 1", "SIGSTOP 0", "SIGSTOP 1", "cut"])
def test_two_nodes_end_together_and_say_which_rank_was_lost(
    how: str, nodes: Nodes, tmp_path: Path, data_dir: Path
) -> None:
    with two_nodes(nodes, tmp_path, data_dir) as (started, folders):
        await_epoch(folders[0], started[0])
        began = time.monotonic()
        if how == "cut":
            nodes.cut()
        else:
            signum, rank = how.split()
            lose(members(tmp_path)[int(rank)], signum)
        await_both(tmp_path, started, ALL_END)
        print(f"two nodes, {how}: {time.monotonic() - began:.1f} s")
    told = [errors(folder / "err") for folder in folders]
    if how == "cut":
        assert re.match(f"error: rank 1 on {nodes.names[1]} failed first: ", told[0][0])
        assert re.match(f"error: rank 0 on {nodes.names[0]} failed first: ", told[1][0])
    else:
        said = [line for lines in told for line in lines]
        assert len(said) == 1, said
        assert re.match(f"error: rank {rank} on {nodes.names[int(rank)]} failed first: ", said[0])
    assert the_run(tmp_path).status == "failed"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("rank", [0, 1])
def test_two_nodes_end_together_and_say_which_rank_raised(
    rank: int, nodes: Nodes, tmp_path: Path, data_dir: Path
) -> None:
    with two_nodes(nodes, tmp_path, data_dir, FAULT=f"raise:{rank}:3") as (started, folders):
        await_both(tmp_path, started, 150)
        took = time.monotonic() - fault_time(*(folder / "out" for folder in folders))
    print(f"two nodes, raise in rank {rank}: {took:.1f} s")
    assert took < ALL_END
    logs = [folder / "err" for folder in folders]
    assert len(named(rank, nodes.names[rank], *logs)) == 1, [path.read_text() for path in logs]
    assert the_run(tmp_path).status == "failed"
    assert f"rank {rank} on {nodes.names[rank]}" in the_run(tmp_path).metadata["error"]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("rank", [0, 1])
def test_two_nodes_are_refused_together(rank: int, nodes: Nodes, tmp_path: Path, data_dir: Path) -> None:
    with two_nodes(nodes, tmp_path, data_dir, FAULT=f"refuse:{rank}:0") as (started, folders):
        logs = [folder / "err" for folder in folders]
        told = await_error(started[0], *logs)
        await_both(tmp_path, started, ALL_END)
        ended, refused = time.monotonic(), fault_time(*(folder / "out" for folder in folders))
    print(f"two nodes, refusal of rank {rank}: told after {told - refused:.1f} s, ended {ended - told:.1f} s later")
    assert ended - told < REFUSED * slowdown()
    assert len([line for path in logs for line in errors(path)]) == 1, [path.read_text() for path in logs]
    assert the_run(tmp_path).status == "failed"
