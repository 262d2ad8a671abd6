"""Image files as a model's data holds them."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lab.engine.utils.errors import UserError


def read_image(path: Path, shape: Sequence[int]) -> Tensor:
    """A PNG or JPEG file as bytes (C, H, W): turned upright, to grey or RGB, and resized where it has another size.

    Args:
        path: of the file.
        shape: (C, H, W), C of 1 or 3.

    Raises:
        UserError: when it is no image that can be read whole.
    """
    channels, height, width = shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # more pixels than any honest picture
            with Image.open(path, formats=["PNG", "JPEG"]) as file:
                picture = ImageOps.exif_transpose(file)
                if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
                    picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
                picture = picture.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        cause = "it is no PNG or JPEG" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(f"{path} cannot be read as an image: {cause}") from error
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)  # Pillow's averages over what it shrinks
    pixels = torch.from_numpy(np.asarray(picture).copy())  # (H, W) or (H, W, C)
    return pixels.view(height, width, channels).permute(2, 0, 1)
