"""Serves image datasets: turns bytes into normalised floats, and augments by random affine maps, a batch at a time."""

import math
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lab.data.draws import Draws
from lab.data.tensors import Batch, TensorDataModule, generator, held_out
from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import AtLeastTwo, CountOrShare, Seed

Resize = Literal["crop", "stretch"]


def random_affine(
    images: Tensor,
    draws: Draws,
    degrees: float = 10.0,
    scale: float = 0.1,
    shear: float = 0.2,
    translate: float = 2.0,
) -> Tensor:
    """Turns, scales, shears and shifts each image by its own draw.

    Args:
        images: (B, C, H, W), any float type; what comes into the frame is zero.
        draws: for each image.
        degrees: largest turn either way.
        scale: sides grow or shrink by up to this share.
        shear: largest horizontal shift for each unit of height.
        translate: largest shift along each axis, in pixels.

    Returns:
        (B, C, H, W)
    """
    height, width = images.shape[2:]
    draw = draws.uniform(6).T * 2 - 1  # (6, B) in (-1, 1)
    angle = draw[0] * math.radians(degrees)
    sx, sy = 1 + scale * draw[1], 1 + scale * draw[2]
    slant = shear * draw[3]
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(  # (B, 2, 3), from output to input coordinates in [-1, 1]
        [
            torch.stack([cos * sx, (slant * cos - sin) * sy, draw[4] * translate * 2 / width], -1),
            torch.stack([sin * sx, (slant * sin + cos) * sy, draw[5] * translate * 2 / height], -1),
        ],
        1,
    ).to(images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # (B, H, W, 2)
    return F.grid_sample(images, grid, align_corners=False)


class ImageDataModule(TensorDataModule):
    """Serves images, stored as bytes (N, C, H, W), with labels (N,); batches are floats normalised by training pixels.

    Args:
        num_samples: training images to use, validation included, drawn at random; None for all.
        num_val: of these, held out for validation; a share where below 1.
        augment: whether each training image passes through `random_affine`.
        seed: of the split.
        **loading: see `TensorDataModule`.

    Attributes:
        mean: of the training pixels in [0, 1]; a dataset says it, like `std`.
        std: likewise.
        image_shape: (C, H, W) that image files are read as; None where none are read.
    """

    mean: float
    std: float
    image_shape: tuple[int, int, int] | None = None
    predict_suffixes = (".png", ".jpg", ".jpeg")

    def __init__(
        self,
        num_samples: AtLeastTwo | None = None,
        num_val: CountOrShare = 0.1,
        augment: bool = False,
        seed: Seed = 0,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.num_samples = num_samples
        self.num_val = num_val
        self.augment = augment
        self.seed = seed

    def split(self, images: Tensor, labels: Tensor) -> dict[str, Batch]:
        """Takes `num_samples` random images (N, C, H, W) and labels (N,): `num_val` as `val`, the rest as `train`."""
        if self.num_samples and self.num_samples > len(images):
            raise UserError(f"num_samples={self.num_samples}: there are {len(images)} training images")
        order = torch.randperm(len(images), generator=generator(self.seed))[: self.num_samples]
        val, train = order.tensor_split([held_out(self.num_val, len(order))])
        return {"train": (images[train], labels[train]), "val": (images[val], labels[val])}

    def train_transform(self, batch: Batch, draws: Draws) -> Batch:
        images, labels = batch
        if self.augment:
            images = random_affine(images.float(), draws)
        return self.eval_transform((images, labels), draws)

    def eval_transform(self, batch: Batch, draws: Draws) -> Batch:
        images, labels = batch
        return normalise(images, self.mean, self.std), labels

    def predict_inputs(self, paths: Sequence[Path]) -> DataLoader[Path]:
        """Returns a loader of image files: images (B, C, H, W) as in evaluation, and None for their labels."""
        shape = self.image_shape
        if shape is None or shape[0] not in (1, 3):
            raise UserError(f"{type(self).__name__} reads no image files: its image_shape is {shape}")

        def read(batch: Sequence[Path]) -> tuple[Tensor, None]:
            images = torch.stack([read_image(path, shape) for path in batch])  # (B, C, H, W)
            return self.eval_transform((images, torch.zeros(len(images))), Draws(torch.arange(len(images))))[0], None

        return file_loader(paths, read)


def file_loader(paths: Sequence[Path], read: Callable[[Sequence[Path]], tuple[Tensor, None]]) -> DataLoader[Path]:
    """Returns a loader of image files, whose batches `read` makes; its `row_names` are the files' names."""
    loader: Any = DataLoader(list(paths), 256, collate_fn=read)  # type: ignore[arg-type]
    loader.row_names = {"file": [str(path) for path in paths]}
    return loader


def normalise(pixels: Tensor, mean: float, std: float) -> Tensor:
    """Makes floats of bytes: mean 0 and variance 1 where the pixels in [0, 1] have this mean and deviation."""
    return pixels.float().mul(1 / (255 * std)).sub_(mean / std)


def read_image(file: Path | str | BytesIO, shape: Sequence[int], resize: Resize = "stretch", name: str = "") -> Tensor:
    """Reads a PNG or JPEG file as bytes (C, H, W): upright, otherwise as `to_pixels` does.

    By Pillow, since torchvision's `decode_image` bounds no image's size.

    Args:
        file: its path, or its content.
        shape: (C, H, W), C of 1 or 3.
        resize: see `to_pixels`.
        name: of the file for errors; default: its path.

    Raises:
        UserError: when it is no image that can be read whole.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # more pixels than any honest picture
            with Image.open(file, formats=["PNG", "JPEG"]) as opened:
                return to_pixels(ImageOps.exif_transpose(opened), shape, resize)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        cause = "it is no PNG or JPEG" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(f"{name or file} cannot be read as an image: {cause}") from error


def to_pixels(picture: Image.Image, shape: Sequence[int], resize: Resize = "stretch") -> Tensor:
    """Turns a picture into bytes (C, H, W): grey or RGB, resized if it has another size.

    What is transparent is laid over white.

    Args:
        picture: of any mode and size.
        shape: (C, H, W), C of 1 or 3.
        resize: `stretch`, or `crop`, which first cuts off what is too long at both ends.
    """
    channels, height, width = shape
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        fit = ImageOps.fit if resize == "crop" else Image.Image.resize
        picture = fit(picture, (width, height), Image.Resampling.BILINEAR)  # Pillow's averages over what it shrinks
    pixels = torch.from_numpy(np.array(picture))  # (H, W) or (H, W, C)
    return pixels.view(height, width, channels).permute(2, 0, 1)
