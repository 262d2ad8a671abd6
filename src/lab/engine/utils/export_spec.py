"""Defines what a model's `export_wrapper` returns. Loads no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ExportSpec:
    """Describes the part of a model to export, in evaluation mode.

    Args:
        module: the `nn.Module` to export, with one output or more.
        description: of the outputs, for users.
        output_names: one for each output; None for `output`, or `output_1` and so on.
        input_names: one for each input; None for the names of `forward`'s arguments.
        sample_shape: of one sample of the only input, with None for a free number of steps or tokens; None for a module
            that takes batches of the test data.
        max_length: largest number of steps or tokens.
        vocab_size: number of tokens of an integer input; None for an input of floats.
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
