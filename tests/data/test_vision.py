"""torchvision's sets: their parts, sizes and classes; and no files where there is no network."""

import gzip
import http.server
import inspect
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets
from torchvision.datasets import VisionDataset

from lab.data.vision import TorchVision
from lab.data.vision_sets import SETS, dims
from lab.engine.utils.errors import RunFailed, UserError
from tests.conftest import refusal


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """An array of bytes as an IDX file."""
    return np.array([0x800 + array.ndim, *array.shape], dtype=">i4").tobytes() + array.tobytes()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of Fashion-MNIST, of a few images, which torchvision is served by HTTP."""
    folder, noise = tmp_path / "served", np.random.default_rng(0)
    folder.mkdir()
    for part, number in (("train", 100), ("t10k", 20)):
        images = noise.integers(256, size=(number, 28, 28), dtype=np.uint8)
        labels = np.arange(number, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    names = [(name, None) for name, _ in datasets.FashionMNIST.resources]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", names)  # whatever the checksums
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield folder
        server.shutdown()
        thread.join()


def test_every_set_is_a_class_of_torchvision_that_takes_its_arguments() -> None:
    for name, known in SETS.items():
        assert issubclass(getattr(datasets, name), VisionDataset)
        arguments = {key for part in known.parts.values() for key in part}
        takes = inspect.signature(getattr(datasets, name)).parameters
        assert arguments <= takes.keys() or any(p.kind is p.VAR_KEYWORD for p in takes.values()), name


def test_fashion_mnist_is_fetched_split_and_served(
    fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TorchVision("FashionMNIST", data_dir=str(tmp_path / "data"), num_workers=0, batch_size=10)
    data.prepare_data()
    there = {path.name for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert there == {
        ".FashionMNIST.lock",
        *(p.name for p in fashion.glob("*.gz")),
        *(p.stem for p in fashion.glob("*.gz")),
    }
    data.setup("fit")
    assert {name: len(part) for name, part in data.datasets.items()} == {"train": 90, "val": 10, "test": 20}  # type: ignore[arg-type]
    assert data.classes == datasets.FashionMNIST.classes
    images, labels = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    assert images.shape == (10, 1, 28, 28)
    assert sorted(labels.tolist()) == list(range(10)), "stratified"
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [])
    data.prepare_data()  # finds its files
    assert dims("FashionMNIST", None, None) == {
        "image_shape": [1, 28, 28], "features": 784, "sequence": [28, 28], "classes": 10,
    }  # fmt: skip


@pytest.mark.parametrize("why", ["no network", "broken files", "no download"])
def test_nothing_is_left_behind_where_the_files_cannot_be_had(
    why: str, fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no network":
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:1/"])
    for path in fashion.glob("t10k*"):
        path.write_text("nothing")  # after two files that are right
    data = TorchVision("FashionMNIST", data_dir=str(tmp_path / "data"), download=why != "no download")
    with pytest.raises(RunFailed) as told:
        data.prepare_data()
    for part in ("FashionMNIST", "data.download=true", str(tmp_path / "data"), "data=digits"):
        assert part in str(told.value)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".FashionMNIST.lock"]


def test_fake_data_has_parts_that_differ() -> None:
    data = TorchVision("FakeData", image_shape=(3, 8, 8), num_classes=4, options={"size": 40}, num_workers=0)
    data.prepare_data()
    data.setup("fit")
    assert {name: len(part) for name, part in data.datasets.items()} == {"train": 36, "val": 4, "test": 40}  # type: ignore[arg-type]
    images = torch.cat([x for name in ("train", "val", "test") for x, _ in data.eval_dataloader(name)])
    assert images.shape == (80, 3, 8, 8)
    assert len(images.flatten(1).unique(dim=0)) == 80
    data.restore(data.preparation)
    with pytest.raises(UserError, match="has 10 classes, and the run was trained on 4"):
        TorchVision("FakeData", image_shape=(3, 8, 8)).restore(data.preparation)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.name=FashionMnist"], "did you mean FashionMNIST?"),
        (["data.name=cifar10"], "did you mean CIFAR10?"),
        (["data.name=CocoDetection"], "torchvision has no such classification set"),
        (["data.name=Flowers102", "model=cnn"], "data.image_shape=[3,64,64]"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(words: list[str], said: str, tmp_path: Path) -> None:
    assert said in refusal("data=torchvision", *words, f"paths.log_dir={tmp_path}/logs")


def test_an_option_that_the_set_lacks_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.options.sise: torchvision's FakeData takes no such argument"):
        TorchVision("FakeData", options={"sise": 40})
