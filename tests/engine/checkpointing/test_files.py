"""Checkpoints against what disks and kills do to files: real ones."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lab.engine.checkpointing.files import (
    find_fault,
    link_checkpoint,
    read_checkpoint,
    remove_partial_files,
    write_checkpoint,
)
from lab.engine.runs.run import Run
from lab.engine.utils.errors import RunFailed, UserError
from tests.conftest import SMALL, Command

KILLS = 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 16 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, timeout=10, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs: run as root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], timeout=10, check=True)


def write_for_ever(path: Path) -> None:
    torch.set_num_threads(1)  # the threads of the process that this one was forked from are not here
    number = 0
    while True:
        number += 1
        write_checkpoint({"number": number, "weights": torch.full((500_000,), float(number))}, path)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["", "TMPDIR on another filesystem"])
def test_kills_while_checkpoints_are_written_lose_nothing(
    elsewhere: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if elsewhere:
        if os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs /dev/shm on a filesystem of its own")
        monkeypatch.setenv("TMPDIR", "/dev/shm")
    path = tmp_path / "last.ckpt"
    write_checkpoint({"number": 0, "weights": torch.zeros(500_000)}, path)
    chance = random.Random(0)
    partials = 0
    for _ in range(KILLS):
        writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=[path])
        writer.start()
        time.sleep(chance.uniform(0.005, 0.1))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(timeout=10)
        kept = read_checkpoint(path)
        assert torch.equal(kept["weights"], torch.full((500_000,), float(kept["number"])))
        partials += len(list(tmp_path.glob(".*.part")))
        remove_partial_files(tmp_path)
    assert partials > 0, "no kill fell into a write: this test has shown nothing"
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_keeps_what_was_there(small_disk: Path) -> None:
    path = small_disk / "run" / "checkpoints" / "last.ckpt"
    write_checkpoint({"weights": torch.ones(2_000_000)}, path)  # 8 MB
    with pytest.raises(RunFailed, match=r"no room for .*last\.ckpt: it needs 12,000,000 bytes, and [\d,]+ are free"):
        write_checkpoint({"weights": torch.zeros(3_000_000)}, path)
    assert torch.equal(read_checkpoint(path)["weights"], torch.ones(2_000_000))
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_a_disk_that_fills_while_a_file_is_written_is_the_same(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_disk / "run" / "checkpoints" / "last.ckpt"
    write_checkpoint({"weights": torch.ones(100)}, path)
    usage = shutil.disk_usage(small_disk)
    asked = iter([usage._replace(free=1 << 40)])  # there was room when it was looked at
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: next(asked, usage._replace(free=0)))
    with pytest.raises(RunFailed, match="no room for"):
        write_checkpoint({"weights": torch.zeros(6_000_000)}, path)
    assert torch.equal(read_checkpoint(path)["weights"], torch.ones(100))
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.slow
def test_a_run_whose_disk_fills_up_ends_and_can_go_on(small_disk: Path, train_command: Command) -> None:
    wide = [*SMALL, "model=mlp", "model.hidden_sizes=[500,500]", "trainer.max_epochs=3", "logger=none"]
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 3_000_000)
    # 8 MB of weights and Adam's moments: one file fits, and not another beside it
    done = train_command(*wide, f"paths.log_dir={small_disk}/logs")
    assert done.returncode == 1
    assert "no room for" in done.stderr
    assert "bytes" in done.stderr
    assert "Traceback" not in done.stderr
    run = Run.open("latest", small_disk / "logs")
    assert run.status == "failed"
    assert read_checkpoint(run.checkpoint("last"))["epoch"] == 1
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], timeout=10, check=True)
    done = train_command(f"resume={run.dir}", f"paths.log_dir={small_disk}/logs")
    assert done.returncode == 0, done.stderr
    assert run.status == "completed"


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_first_step(
    small_disk: Path, train_command: Command
) -> None:
    (small_disk / "run" / "checkpoints").mkdir(parents=True)
    checkpoint_dir = small_disk / "run" / "checkpoints"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], timeout=10, check=True)
    done = train_command(*SMALL, "model=mlp", f"paths.log_dir={small_disk}/logs", timeout=60)
    assert done.returncode == 2
    assert f"{small_disk} cannot be written to" in done.stderr
    assert "Traceback" not in done.stderr
    done = train_command(*SMALL, "model=mlp", f"callbacks.checkpoint.dirpath={checkpoint_dir}", timeout=60)
    assert done.returncode == 1
    assert str(checkpoint_dir) in done.stderr
    assert "epoch 1" not in done.stdout
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], timeout=10, check=True)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[: len(content) // 2], "cut short"),
        (lambda content: b"", "cut short"),
        (lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:], "checksum"),
    ],
    ids=["half", "nothing", "a bit"],
)
def test_damage_is_seen(damage: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint({"weights": torch.ones(10_000)}, path)
    assert find_fault(path) is None
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(UserError, match=said):
        read_checkpoint(damaged)


def test_a_process_reads_a_checkpoint_whole_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str | None] = []
    testzip = zipfile.ZipFile.testzip

    def count(archive: zipfile.ZipFile) -> str | None:
        read.append(archive.filename)
        return testzip(archive)

    monkeypatch.setattr(zipfile.ZipFile, "testzip", count)
    run = Run(tmp_path)
    path = tmp_path / "checkpoints" / "last.ckpt"
    for number in (1, 2):
        write_checkpoint({"weights": torch.full([1000], float(number))}, path)
        for _ in range(3):  # as the command line is checked, as its config is resolved, as training begins
            assert run.newest_checkpoint() == path
        assert torch.equal(read_checkpoint(path)["weights"], torch.full([1000], float(number)))
        assert len(read) == number, "a new file is read anew"


def test_two_names_of_one_file(tmp_path: Path) -> None:
    write_checkpoint({"weights": torch.ones(10)}, tmp_path / "last.ckpt")
    for _ in range(2):
        link_checkpoint(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
        assert (tmp_path / "last.ckpt").samefile(tmp_path / "best.ckpt")
    write_checkpoint({"weights": torch.zeros(10)}, tmp_path / "last.ckpt")
    assert torch.equal(read_checkpoint(tmp_path / "best.ckpt")["weights"], torch.ones(10))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
