"""The generated digits."""

from pathlib import Path

import pytest
import torch

from lab.data.digits import Digits, draw
from lab.data.tensors import generator


def test_images_are_bytes_of_ten_classes_and_repeat_with_the_seed() -> None:
    images, labels = draw(500, generator(7))
    assert images.shape == (500, 1, 28, 28)
    assert images.dtype == torch.uint8
    assert set(labels.tolist()) == set(range(10))
    again, same = draw(500, generator(7))
    assert torch.equal(images, again)
    assert torch.equal(labels, same)
    assert not torch.equal(images, draw(500, generator(8))[0])


def test_images_are_framed_like_mnist() -> None:
    images, _ = draw(2000, generator(0))
    ink = images.float().squeeze(1)
    at = torch.arange(28.0)
    across = (ink.sum(1) * at).sum(1) / ink.sum((1, 2))
    down = (ink.sum(2) * at).sum(1) / ink.sum((1, 2))
    assert abs(across.mean() - 13.5) < 0.3
    assert abs(down.mean() - 13.5) < 0.3
    assert 0.10 < ink.mean() / 255 < 0.20, "MNIST has 0.13"


def test_no_two_images_are_alike() -> None:
    images, _ = draw(2000, generator(0))
    assert len(images.flatten(1).unique(dim=0)) == 2000


def test_drawn_once_and_kept(tmp_path: Path) -> None:
    data = Digits(data_dir=str(tmp_path), num_samples=120, num_val=20, batch_size=10)
    data.prepare_data()
    written = data.path.stat().st_mtime_ns
    data.prepare_data()
    assert data.path.stat().st_mtime_ns == written
    assert [p.suffix for p in sorted(data.path.parent.iterdir())] == [".lock", ".pt"]
    data.setup("fit")
    assert (len(data.train_dataloader()), len(data.val_dataloader()), len(data.test_dataloader())) == (10, 1, 4)


def test_what_is_there_already_is_read_where_nobody_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        digits = Digits(str(tmp_path), num_samples=20, num_val=5)
        digits.prepare_data()
        digits.setup("fit")
        monkeypatch.setattr("lab.data.digits.FileLock", None)
        monkeypatch.setattr(Path, "mkdir", None)


def test_statistics_are_those_of_the_images() -> None:
    images, _ = draw(5000, generator(0))
    data = Digits(data_dir="", batch_size=10)
    assert data.mean == pytest.approx(float(images.float().mean()) / 255, abs=0.005)
    assert data.std == pytest.approx(float(images.float().std()) / 255, abs=0.005)


def test_splits_do_not_share_an_image(tmp_path: Path) -> None:
    data = Digits(data_dir=str(tmp_path), num_samples=300, num_val=60, batch_size=10)
    data.prepare_data()
    splits = data.load()
    everything = torch.cat([images for images, _ in splits.values()])
    assert len(everything.flatten(1).unique(dim=0)) == 300 + 10_000


@pytest.mark.parametrize(("num_val", "count"), [(0.1, 12), (0.25, 30), (1, 1), (119, 119)])
def test_a_share_or_a_whole_number_is_held_out(num_val: float, count: int) -> None:
    found = Digits(num_samples=120, num_val=num_val).split(torch.zeros(120, 1, 2, 2), torch.arange(120))
    labels = {name: set(labels.tolist()) for name, (_, labels) in found.items()}
    assert {name: len(each) for name, each in labels.items()} == {"train": 120 - count, "val": count}
    assert labels["train"] | labels["val"] == set(range(120))


@pytest.mark.parametrize("num_val", [100, 200, 0.001, 0.999])
def test_a_split_that_cannot_be_is_refused(num_val: float) -> None:
    with pytest.raises(ValueError, match=f"num_val={num_val}"):
        Digits(num_samples=100, num_val=num_val).split(torch.zeros(100, 1, 2, 2), torch.arange(100))
