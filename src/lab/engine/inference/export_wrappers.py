"""What of a model is exported, and what goes with it: torch alone.

Legend: B samples in a batch, T steps or tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from lab.engine.utils.errors import UserError
from lab.models.gan import GAN
from lab.models.tasks.classification import Classifier
from lab.models.tasks.language_modeling import LanguageModel
from lab.models.tasks.regression import Regressor
from lab.models.vae import VAE

LONGEST = 4096  # steps of a sequence that an exported recurrent net can be given


@dataclass(frozen=True)
class ExportSpec:
    """The part of a model that is exported, in evaluation mode.

    Args:
        module: from one input to one output or more.
        says: what it does, in words.
        input_name: of its input.
        shape: of one sample; None for a free number of steps or tokens.
        output_names: as many as it has outputs.
        longest: the most steps or tokens.
        tokens: below which the input's whole numbers lie; None for an input of floats.
    """

    module: nn.Module
    says: str
    input_name: str
    shape: tuple[int | None, ...]
    output_names: tuple[str, ...]
    longest: int = LONGEST
    tokens: int | None = None

    def example(self, batch: int, steps: int) -> Tensor:
        """A random input of so many samples, of so many steps where these are free; the same every time."""
        draws = torch.Generator().manual_seed(batch)
        shape = (batch, *(min(steps, self.longest) if size is None else size for size in self.shape))
        if self.tokens is not None:
            return torch.randint(self.tokens, shape, generator=draws)
        return torch.randn(shape, generator=draws)

    def dynamic(self) -> dict[int, Any]:
        """The free axes, for `torch.export`."""
        axes = {0: torch.export.Dim("batch", min=1)}
        if None in self.shape:
            axes[1 + self.shape.index(None)] = torch.export.Dim("time", min=1, max=self.longest)
        return axes


@singledispatch
def export_spec(model: Any, dims: dict[str, Any]) -> ExportSpec:
    """What is exported of `model`.

    Args:
        model: with weights, on the CPU.
        dims: what the run's data offers, as the config has it; the sizes in the model's own arguments come first.
    """
    raise UserError(f"{type(model).__name__} is of no task that is exported")


@export_spec.register
def _(model: Classifier, dims: dict[str, Any]) -> ExportSpec:
    return ExportSpec(model, "logits of the classes", "input", sample_shape(model, dims), ("logits",))


@export_spec.register
def _(model: Regressor, dims: dict[str, Any]) -> ExportSpec:
    return ExportSpec(
        InUnits(model), "predictions in the targets' own units", "input", sample_shape(model, dims), ("prediction",)
    )


@export_spec.register
def _(model: LanguageModel, dims: dict[str, Any]) -> ExportSpec:
    says = "logits of the token that follows each token"
    return ExportSpec(model, says, "tokens", (None,), ("logits",), longest=model.context, tokens=model.vocab_size)


@export_spec.register
def _(model: VAE, dims: dict[str, Any]) -> ExportSpec:
    says = "the mean of each pixel, in [0, 1], at the code's mean, and mean and log-variance of the code"
    return ExportSpec(Reconstruction(model), says, "input", model.image, ("reconstruction", "mean", "log_var"))


@export_spec.register
def _(model: GAN, dims: dict[str, Any]) -> ExportSpec:
    averaged = " averaged" if model.ema is not None else ""
    says = f"images, pixels in [0, 1], of the{averaged} generator from standard normal latents"
    return ExportSpec(Drawing(model), says, "latents", (model.latent_size,), ("images",))


class InUnits(nn.Module):
    """A regressor's `predict` for its `forward`."""

    def __init__(self, model: Regressor) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.predict(x)  # (B, ...) -> (B, K)


class Reconstruction(nn.Module):
    """A VAE's `forward` with pixels for their logits."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, mean, log_var = self.model(x)
        return logits.sigmoid(), mean, log_var  # (B, C, H, W), (B, L), (B, L)


class Drawing(nn.Module):
    """What a GAN's `sample` does with latents, and pixels for what the data makes of them."""

    def __init__(self, model: GAN) -> None:
        super().__init__()
        self.network = model.generator if model.ema is None else model.ema.module

    def forward(self, z: Tensor) -> Tensor:
        return (self.network(z) + 1) / 2  # (B, Z) -> (B, C, H, W)


def sample_shape(model: Any, dims: dict[str, Any]) -> tuple[int | None, ...]:
    """The shape of one input of a classifier or regressor: as its data has it, or flat where that is not known."""
    own: Any = model.hparams
    if "image" in own:
        return tuple(own["image"])
    image, steps = dims.get("image"), None
    if "input_size" in own:  # a recurrent net: images by rows, or sequences of any length
        return tuple(image) if image and image[0] * image[2] == own["input_size"] else (steps, own["input_size"])
    if "in_features" in own:
        return tuple(image) if image and math.prod(image) == own["in_features"] else (own["in_features"],)
    raise UserError(
        f"{type(model).__name__} has none of the arguments image, input_size and in_features, which would say what"
        " shape its inputs have: give it one"
    )


def outputs(found: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """One output or more as a list."""
    return [found] if isinstance(found, Tensor) else list(found)
