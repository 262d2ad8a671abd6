"""Finds the inputs and targets of a batch, and the shapes of inputs, for tasks to predict and to export."""

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from lab.engine.utils.errors import UserError

Targets = Tensor | list[Any] | None  # a tensor (B, ...), what a file says of each sample, or nothing that is known


def inputs_and_targets(batch: Any) -> tuple[Sequence[Tensor], Targets]:
    """Splits a batch into the model's inputs, one or more, and the targets, its last element; a tensor has none."""
    return ([batch], None) if isinstance(batch, Tensor) else (batch[:-1], batch[-1])


def sample_shape(model: pl.LightningModule, dims: dict[str, Any]) -> tuple[int | None, ...]:
    """Returns the shape of one input: an image's if the model or fitting data has one, else flat; None for any length.

    Args:
        model: its hyperparameters come first.
        dims: what the data offers.
    """
    own: Any = model.hparams
    if "image_shape" in own:
        return tuple(own["image_shape"])
    image = dims.get("image_shape")
    if "input_size" in own:  # a recurrent net: images by rows, or sequences of any length
        return tuple(image) if image and image[0] * image[2] == own["input_size"] else (None, own["input_size"])
    if "in_features" in own:
        return tuple(image) if image and math.prod(image) == own["in_features"] else (own["in_features"],)
    raise UserError(
        f"{type(model).__name__} has none of the arguments image_shape, input_size and in_features, which would say"
        " what shape its inputs have: give it one"
    )
