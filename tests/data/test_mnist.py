"""Fetching MNIST, with a server and files of the tests' own, and the real files where a mirror is at hand."""

import contextlib
import gzip
import hashlib
import http.server
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lab.data import download, mnist
from lab.data.mnist import MNIST
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.paths import ROOT

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
    monkeypatch.setattr(download, "PAUSE", 0.01)
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


@pytest.mark.slow
def test_some_of_the_images_are_drawn_by_the_seed(small: Path, tmp_path: Path) -> None:
    def drawn(**options: int) -> dict[str, list[int]]:
        data = make(tmp_path, small.as_uri(), **options)
        data.prepare_data()
        return {name: labels.tolist() for name, (_, labels) in data.load().items()}

    some = drawn(num_samples=12)
    assert {name: len(labels) for name, labels in some.items()} == {"train": 7, "val": 5, "test": 20}
    assert some == drawn(num_samples=12)
    assert some != drawn(num_samples=12, seed=1)
    assert len(drawn()["train"]) == 15


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


class Odd:
    """A server on a real socket that answers each connection as one of `answers` says, the last of them for ever."""

    def __init__(self, *answers: Callable[[socket.socket, str], None]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.over = threading.Event()

    def __enter__(self) -> str:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    def __exit__(self, *error: object) -> None:
        self.over.set()
        socket.create_connection(self.listening.getsockname()).close()  # wakes the one that accepts
        self.thread.join(timeout=10)
        self.listening.close()
        assert not self.thread.is_alive()

    def serve(self) -> None:
        while not self.over.is_set():
            connection, _ = self.listening.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request and (part := connection.recv(4096)):
                    request += part
                if request:
                    self.asked.append(request.split()[1].decode())
                    answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
                    with contextlib.suppress(OSError):  # the client has had enough
                        answer(connection, self.asked[-1])


def ok(content: bytes, length: int | None = None) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(content) if length is None else length}\r\n\r\n".encode() + content


def status(line: str) -> Callable[[socket.socket, str], None]:
    return lambda connection, path: connection.sendall(f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode())


def drip(connection: socket.socket, content: bytes) -> None:
    for i in range(len(content)):
        connection.sendall(content[i : i + 1])
        time.sleep(0.02)


def early(connection: socket.socket, path: str) -> None:
    connection.sendall(ok(b"x" * 10, 5000))


def endless(connection: socket.socket, path: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(bytes(1 << 16))


def stall(connection: socket.socket, path: str) -> None:
    connection.sendall(ok(b"x" * 10, 5000))
    connection.recv(1)  # until the client goes


ODD: dict[str, tuple[Callable[[socket.socket, str], None], str, int]] = {
    "rubbish": (lambda c, p: c.sendall(b"\x00\xff rubbish\r\n\r\n"), "400, message=", 1),
    "rubbish headers": (lambda c, p: c.sendall(b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000), "400, message=", 1),
    "another page": (lambda c, p: c.sendall(ok(b"<html>moved</html>")), "wrong checksum", 1),
    "nothing": (lambda c, p: None, "Server disconnected, 3 times", 6),  # aiohttp itself asks a second time
    "closes early": (early, "received 10 of 5000 bytes).'>, 3 times", 3),
    "stalls after some bytes": (stall, "Timeout on reading data from socket", 1),
    "drips": (lambda c, p: drip(c, ok(b"x" * 5000)), "not done after 0.5 s", 1),
    "drips its headers": (lambda c, p: drip(c, b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 900), "not done after 0.5 s", 1),
    "never ends": (endless, "more than 16777216 bytes", 1),
    "is broken": (status("500 Oh"), "500, message='Oh'", 3),
    "is overrun": (status("503 Busy"), "503, message='Busy'", 3),
    "has no such file": (status("404 Gone"), "404, message='Gone'", 1),
}


@pytest.mark.parametrize(
    ("answer", "said", "asked"),
    [pytest.param(*row, id=name, marks=[pytest.mark.slow] if "drips" in name else []) for name, row in ODD.items()],
)
def test_a_mirror_that(
    answer: Callable[[socket.socket, str], None], said: str, asked: int, small: Path, tmp_path: Path
) -> None:
    """Is named with its trouble, tried again where that may pass, and the next mirror serves."""
    odd = Odd(answer)
    deadline = 0.5 if "not done" in said else 20.0
    with odd as url:
        with pytest.raises(RunFailed) as caught:
            make(tmp_path, url, timeout=0.3, deadline=deadline).prepare_data()
        assert said in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 6
        assert odd.asked == [f"/{IMAGES}.gz"] * asked
        assert not list((tmp_path / "data").rglob("*ubyte*"))
        make(tmp_path, url, small.as_uri(), timeout=0.3, deadline=deadline).prepare_data()
    assert len(list((tmp_path / "data" / "MNIST" / "raw").glob("*ubyte"))) == 4


@pytest.mark.parametrize("trouble", [status("500 Oh"), status("429 Slow"), early, lambda c, p: None])
def test_trouble_that_passes(trouble: Callable[[socket.socket, str], None], small: Path, tmp_path: Path) -> None:
    odd = Odd(trouble, trouble, lambda c, p: c.sendall(ok((small / p.strip("/")).read_bytes())))
    with odd as url:
        make(tmp_path, url, timeout=5.0).prepare_data()
    assert len(odd.asked) == 2 + 4
    assert len(list((tmp_path / "data" / "MNIST" / "raw").glob("*ubyte"))) == 4


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_file_of_ones_own(damage: str, packed: bool, small: Path, tmp_path: Path) -> None:
    """Is not used, whether it is the one that is served or the one that is read."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    good = (small / f"{IMAGES}.gz").read_bytes()
    content = good if packed else gzip.decompress(good)
    middle = len(content) // 2
    bad = {
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "truncated": content[:middle],
        "empty": b"",
    }[damage]
    (raw / (f"{IMAGES}.gz" if packed else IMAGES)).write_bytes(bad)
    make(tmp_path, small.as_uri()).prepare_data()
    assert (raw / IMAGES).read_bytes() == gzip.decompress(good)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "data:,x", "/a/folder", "s3://bucket"])
def test_an_address_of_another_kind(url: str, small: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="no address of a kind that is read"):
        make(tmp_path, url).prepare_data()


@pytest.mark.slow
def test_two_processes_fetch_at_once(small: Path, tmp_path: Path) -> None:
    """Each file is asked for once, whichever comes first, and both find them all."""
    odd = Odd(lambda c, p: c.sendall(ok((small / p.strip("/")).read_bytes())))
    with odd as url, contextlib.ExitStack() as stack:
        code = (
            "import sys\nfrom lab.data import mnist\n"
            f"mnist.FILES = {mnist.FILES!r}\n"
            f"data = mnist.MNIST(data_dir={str(tmp_path / 'data')!r}, mirrors=[{url!r}], num_val=5, batch_size=5)\n"
            "print('ready', flush=True)\nsys.stdin.readline()\n"
            "data.prepare_data(); data.setup('fit'); print(len(next(iter(data.train_dataloader()))[1]))\n"
        )
        ranks = []
        for _ in range(2):
            rank = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            )  # fmt: skip
            ranks.append(stack.enter_context(rank))
            stack.callback(rank.kill)
        for rank in ranks:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "ready\n"
        for rank in ranks:
            assert rank.stdin is not None
            rank.stdin.write("go\n")
            rank.stdin.flush()
        assert [rank.communicate(timeout=60)[0] for rank in ranks] == ["5\n", "5\n"]
    assert sorted(odd.asked) == sorted(f"/{name}.gz" for name in mnist.FILES)
    assert not list((tmp_path / "data").rglob("*.part"))


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
    fewer = MNIST(data_dir=str(data_dir), num_samples=1200).load()
    assert {name: len(labels) for name, (_, labels) in fewer.items()} == {"train": 1100, "val": 100, "test": 10_000}
    assert fewer["train"][1].bincount().min() > 70, "of every digit"
    with pytest.raises(UserError, match="num_samples=60001: there are 60000"):
        MNIST(data_dir=str(data_dir), num_samples=60_001).load()
    pixels = torch.cat([splits["train"][0], splits["val"][0]]).float() / 255
    assert data.mean == pytest.approx(float(pixels.mean()), abs=1e-4)
    assert data.std == pytest.approx(float(pixels.std()), abs=1e-4)
    # the 60,000 hold 5,923 zeros and 6,742 ones (LeCun et al.)
    labels = torch.cat([splits["train"][1], splits["val"][1]])
    assert labels.bincount()[:2].tolist() == [5923, 6742]
