"""Measures data=image_folder against a DataLoader by hand over torchvision's ImageFolder.

python benchmarks/image_folder.py 50000
Decode, resize, flip and normalise, no model, files in the page cache. Both sides are measured in turn, in one process:
a machine whose speed drifts slows both.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from lab.data.image_folder import ImageFolder

SIDE, CLASSES, BATCH = 64, 10, 128
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


def write_pictures(folder: Path, number: int) -> None:
    """Writes PNG files with smooth noise, which compress as photographs do, to a folder for each class."""
    noise = np.random.default_rng(0)
    for name in range(CLASSES):
        (folder / str(name)).mkdir()
    for i in range(number):
        coarse = Image.fromarray(noise.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(folder / str(i % CLASSES) / f"{i}.png")


def by_hand(folder: Path, num_workers: int) -> DataLoader[Any]:
    transform = v2.Compose(
        [
            v2.Resize((SIDE, SIDE)),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return DataLoader(
        datasets.ImageFolder(folder, transform),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def ours(folder: Path, num_workers: int, crop_padding: int) -> Any:
    """Returns a loader of every picture, nothing held out, whose epoch is `order.epoch`."""
    data = ImageFolder(
        str(folder), image_shape=(3, SIDE, SIDE), flip=True, crop_padding=crop_padding, mean=MEAN, std=STD,
        val_fraction=0, test_fraction=0, batch_size=BATCH, num_workers=num_workers, resident=True,
    )  # fmt: skip
    data.setup("fit")
    return data.train_dataloader()


def rate(loader: Iterable[Any]) -> float:
    """Returns the images a second of one pass."""
    start = time.perf_counter()
    number = sum(len(images) for images, _ in loader)
    return number / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int, nargs="?", default=50_000, help="of pictures")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    plain, first = [], []
    later: dict[int, list[float]] = {0: [], 4: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, args.number)
        for _ in range(args.pairs):
            plain.append(rate(by_hand(folder, args.workers)))
            for padding, rates in later.items():
                loader = ours(folder, args.workers, padding)
                for epoch in range(4):
                    loader.order.epoch = partial(int, epoch)
                    found = rate(loader)
                    if epoch:
                        rates.append(found)
                    elif not padding:
                        first.append(found)
    typical = statistics.median(plain)
    print(f"by hand: {typical:,.0f} images a second (median of {args.pairs} passes over {args.number:,} pictures)")
    ratios = [a / b for a, b in zip(first, plain, strict=True)]
    print(
        f"first epoch: {statistics.median(first):,.0f}, {statistics.median(ratios):.2f} times as many"
        f" (pairs: {', '.join(f'{ratio:.2f}' for ratio in ratios)})"
    )
    for what, rates in (("flip", later[0]), ("flip and random crop", later[4])):
        found = statistics.median(rates)
        print(f"from the second epoch on, {what}: {found:,.0f}, {found / typical:.1f} times as many")


if __name__ == "__main__":
    main()
