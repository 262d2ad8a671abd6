"""Fetching MNIST, with a server and files of the tests' own, and the real files where a mirror is at hand."""

import gzip
import hashlib
import http.server
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lab.data import mnist
from lab.data.mnist import MNIST
from lab.errors import RunFailed

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(shape: tuple[int, ...]) -> bytes:
    """An IDX file of zeros to nines."""
    count = int(torch.tensor(shape).prod())
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(i % 10 for i in range(count))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the four files, small ones, whose checksums the module takes for right."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    sums = {}
    for name in mnist.FILES:
        content = idx((20,) if "labels" in name else (20, 28, 28))
        packed = gzip.compress(content)
        (folder / f"{name}.gz").write_bytes(packed)
        sums[name] = (hashlib.sha256(packed).hexdigest(), hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(mnist, "FILES", sums)
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    return folder


@pytest.fixture
def server(small: Path) -> Iterator[str]:
    """`small` over http."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(small))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            asked.append(self.path)

    asked: list[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        running.asked = asked  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def make(tmp_path: Path, *mirrors: str, **options: float) -> MNIST:
    return MNIST(data_dir=str(tmp_path / "data"), mirrors=mirrors, num_val=5, batch_size=5, **options)  # type: ignore[arg-type]


def test_fetched_over_http_and_read(server: str, tmp_path: Path) -> None:
    data = make(tmp_path, server)
    data.prepare_data()
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (5, 1, 28, 28)
    assert labels.dtype == torch.int64
    assert not list((tmp_path / "data").rglob("*.part"))


def test_the_environment_comes_first(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_MIRROR", small.as_uri())
    make(tmp_path, "http://127.0.0.1:9/never").prepare_data()


def test_files_put_there_by_hand_are_taken(small: Path, tmp_path: Path) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in small.iterdir():
        (raw / path.name).write_bytes(path.read_bytes())
    make(tmp_path).prepare_data()


def test_a_file_with_a_wrong_checksum_is_named_and_fetched_again(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make(tmp_path, small.as_uri())
    data.prepare_data()
    path = tmp_path / "data" / "MNIST" / "raw" / LABELS
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"x")
    data.prepare_data()
    assert path.read_bytes() == good
    assert f"{path} has a wrong checksum" in caplog.text


def test_a_mirror_with_a_wrong_file_is_passed_over(small: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for path in small.iterdir():
        (bad / path.name).write_bytes(b"<html>moved</html>")
    make(tmp_path, bad.as_uri(), small.as_uri()).prepare_data()
    with pytest.raises(RunFailed, match="wrong checksum"):
        MNIST(data_dir=str(tmp_path / "other"), mirrors=[bad.as_uri()], batch_size=5).prepare_data()


def test_no_mirror_says_what_was_tried_and_what_helps(small: Path, tmp_path: Path) -> None:
    nowhere = (tmp_path / "nowhere").as_uri()
    with pytest.raises(RunFailed) as caught:
        make(tmp_path, nowhere, "http://127.0.0.1:9").prepare_data()
    said = str(caught.value)
    for words in (
        nowhere,
        "127.0.0.1:9",
        str(tmp_path / "data" / "MNIST" / "raw"),
        "data.mirrors",
        "MNIST_MIRROR",
        "data=digits",
    ):
        assert words in said
    assert len(said.splitlines()) <= 10


def test_a_server_that_stalls_does_not_hang(small: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stalled = f"http://127.0.0.1:{silent.getsockname()[1]}"
        make(tmp_path, stalled, small.as_uri(), timeout=0.2).prepare_data()


def test_a_second_process_waits_and_finds_the_files(server: str, tmp_path: Path) -> None:
    threads = [threading.Thread(target=make(tmp_path, server).prepare_data) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(list((tmp_path / "data" / "MNIST" / "raw").glob("*ubyte"))) == 4


needs_mnist = pytest.mark.skipif(
    "MNIST_MIRROR" not in os.environ, reason="set MNIST_MIRROR to a folder with MNIST's four .gz files"
)


@needs_mnist
def test_the_real_files(data_dir: Path) -> None:
    data = MNIST(data_dir=str(data_dir), batch_size=128)
    data.prepare_data()
    splits = data.load()
    assert {name: tuple(images.shape) for name, (images, _) in splits.items()} == {
        "train": (55_000, 1, 28, 28),
        "val": (5_000, 1, 28, 28),
        "test": (10_000, 1, 28, 28),
    }
    pixels = torch.cat([splits["train"][0], splits["val"][0]]).float() / 255
    assert data.mean == pytest.approx(float(pixels.mean()), abs=1e-4)
    assert data.std == pytest.approx(float(pixels.std()), abs=1e-4)
    # the 60,000 hold 5,923 zeros and 6,742 ones (LeCun et al.)
    labels = torch.cat([splits["train"][1], splits["val"][1]])
    assert labels.bincount()[:2].tolist() == [5923, 6742]
