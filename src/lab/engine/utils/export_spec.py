"""Describes what of a model is exported: plain values, which a model's `export_wrapper` returns. Loads no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ExportSpec:
    """The part of a model that is exported, in evaluation mode.

    Args:
        module: an `nn.Module`, from its inputs to one output or more.
        description: of the outputs, in words.
        output_names: as many as it has outputs; None for `output`, or `output_1` and so on.
        input_names: as many as it has inputs; None for the names of `forward`'s arguments.
        sample_shape: of one sample of its only input, None for a free number of steps or tokens; None for a module that
            reads what a batch of the test data holds.
        max_length: the most steps or tokens.
        vocab_size: below which the input's whole numbers lie; None for an input of floats.
        forward: computes the outputs by the module; None for the module's own `forward`.
    """

    module: Any
    description: str
    output_names: tuple[str, ...] | None = None
    input_names: tuple[str, ...] | None = None
    sample_shape: tuple[int | None, ...] | None = None
    max_length: int = 4096
    vocab_size: int | None = None
    forward: Callable[..., Any] | None = None
