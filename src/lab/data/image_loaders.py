"""Serves datasets of labelled pictures by loaders: resized one by one, augmented and normalised a batch at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lab.data.draws import Draws
from lab.data.image_index import SUFFIXES
from lab.data.images import Resize, file_loader, read_image
from lab.data.loaders import LoaderDataModule, Splits, hold_out
from lab.data.tensors import generator
from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import Fraction, ImageShape, NonNegativeInt, PositiveFloat, Seed

NUM_MEASURED = 1000  # training pictures whose pixels say the mean and deviation


class ImageLoaderDataModule(LoaderDataModule):
    """Serves pictures with labels: floats (B, C, H, W), normalised by training pixels, and whole numbers (B,).

    A subclass's `load` returns datasets of bytes (C, H, W) with labels.

    Args:
        image_shape: (C, H, W) of a sample, C of 1 or 3.
        resize: see `lab.data.images.to_pixels`.
        flip: whether half of the training pictures, drawn anew each epoch, are mirrored.
        crop_padding: pixels by which a training picture is shifted at most, drawn anew each epoch; zeros come in.
        mean: of the pixels in [0, 1], for each channel or for all; None for that of 1,000 training pictures.
        std: likewise; neither or both are given.
        val_fraction: of the training samples, held out for validation where the data has no part for it.
        test_fraction: likewise, to test on.
        seed: of the split, and of the pictures that are measured.
        num_workers: processes that read pictures ahead, of each split.
        **loading: see `LoaderDataModule`.

    Attributes:
        classes: their names, where the data has such; None before `setup`.
    """

    predict_suffixes = SUFFIXES

    def __init__(
        self,
        image_shape: ImageShape = (3, 64, 64),
        resize: Resize = "crop",
        flip: bool = False,
        crop_padding: NonNegativeInt = 0,
        mean: float | Sequence[float] | None = None,
        std: PositiveFloat | Sequence[PositiveFloat] | None = None,
        val_fraction: Fraction = 0.1,
        test_fraction: Fraction = 0.1,
        seed: Seed = 0,
        num_workers: NonNegativeInt = 2,
        **loading: Any,
    ) -> None:
        super().__init__(num_workers=num_workers, **loading)
        if image_shape[0] not in (1, 3):
            raise UserError(f"image_shape={list(image_shape)}: pictures have 1 channel or 3")
        for name, given in (("mean", mean), ("std", std)):
            if (mean is None) != (std is None) or (isinstance(given, Sequence) and len(given) != image_shape[0]):
                raise UserError(f"{name}={given}: give mean and std, one number or {image_shape[0]} each, or neither")
        self.image_shape = tuple(image_shape)
        self.resize: Resize = resize
        self.flip, self.crop_padding = flip, crop_padding
        self.mean, self.std = mean, std
        self.held_out = {"val": float(val_fraction), "test": float(test_fraction)}
        self.seed = seed
        self.classes: list[str] | None = None

    @property
    def preparation(self) -> dict[str, Any]:
        names = ("classes", "image_shape", "mean", "std")
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}

    def restore(self, preparation: dict[str, Any]) -> None:
        if (shape := list(self.image_shape)) != preparation["image_shape"]:
            raise UserError(f"image_shape={shape}: the run was trained on pictures of {preparation['image_shape']}")
        self.classes, self.mean, self.std = (preparation[name] for name in ("classes", "mean", "std"))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.mean is None:
            if "train" not in self.datasets:
                raise UserError("there are no training pictures to measure: give data.mean and data.std")
            self.mean, self.std = measure(self.datasets["train"], self.seed)

    def hold_out(self, parts: Splits, labels: Sequence[int] | None) -> Splits:
        """Adds the parts among `val` and `test` that are not there, taken from `train`, of each class its share.

        Args:
            parts: datasets by their names.
            labels: of those of `train`; None where they are not known, to take from all alike.
        """
        shares = {name: share for name, share in self.held_out.items() if share and name not in parts}
        if "train" in parts and shares == {"test": 1.0}:  # pictures to evaluate a run on
            return {name: part for name, part in parts.items() if name != "train"} | {"test": parts["train"]}
        return hold_out(parts, shares, None if labels is None else torch.tensor(labels), self.seed)

    def train_transform(self, batch: Any, draws: Draws) -> Any:
        images, *rest = batch
        images = crop_and_flip(images, draws, self.crop_padding, self.flip)
        return self.eval_transform((images, *rest), draws)

    def eval_transform(self, batch: Any, draws: Draws) -> Any:
        images, *rest = batch
        images = images.to(self.trainer.strategy.root_device) if self.trainer else images
        mean, std = (torch.tensor(x, device=images.device).view(-1, 1, 1) for x in (self.mean, self.std))
        return images.float().mul_(1 / (255 * std)).sub_(mean / std), *rest

    def predict_inputs(self, paths: Sequence[Path]) -> DataLoader[Path]:
        """Returns a loader of image files: images (B, C, H, W) as in evaluation, and None for their labels."""

        def read(batch: Sequence[Path]) -> tuple[Tensor, None]:
            images = torch.stack([read_image(path, self.image_shape, self.resize) for path in batch])  # (B, C, H, W)
            return self.eval_transform((images,), Draws(torch.arange(len(images))))[0], None

        return file_loader(paths, read)


def measure(dataset: Dataset[Any], seed: int) -> tuple[list[float], list[float]]:
    """Returns mean and deviation of each channel, in [0, 1], over some pictures, bytes (C, H, W), of a dataset."""
    rows = torch.randperm(len(dataset), generator=generator(seed, 1))[:NUM_MEASURED]  # type: ignore[arg-type]
    pixels = torch.stack([dataset[row][0] for row in rows.tolist()]).transpose(0, 1).flatten(1)  # (C, N * H * W)
    std, mean = torch.std_mean(pixels.float() / 255, 1, correction=0)
    return mean.tolist(), [deviation or 1.0 for deviation in std.tolist()]  # of pixels that are all the same


def crop_and_flip(images: Tensor, draws: Draws, padding: int, flip: bool) -> Tensor:
    """Shifts each of the images (B, C, H, W) by up to `padding` pixels, zeros coming in, and mirrors half of them.

    One image after the other: on a CPU that is several times as fast as one index operation for all.
    """
    height, width = images.shape[2:]
    y, x, mirror = draws.uniform(3).T  # (B,) each
    y, x = ((place * (2 * padding + 1)).long() for place in (y, x))
    is_mirrored = (mirror < 0.5) & flip
    padded, cut = F.pad(images, [padding] * 4), torch.empty_like(images)
    for i, (top, left, mirrored) in enumerate(zip(y.tolist(), x.tolist(), is_mirrored.tolist(), strict=True)):
        window = padded[i, :, top : top + height, left : left + width]
        cut[i] = window.flip(-1) if mirrored else window
    return cut
