"""Makes the inputs that an exported graph is traced with and held against the model with, in batches of any size."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.utilities.data import extract_batch_size
from torch import Tensor

from lab.engine.inference.forward import Arguments, forward_arguments, tensors
from lab.engine.utils.errors import UserError
from lab.engine.utils.export_spec import ExportSpec


@dataclass(frozen=True)
class RandomInput:
    """One random input, as a model's `export_wrapper` describes it; the same every time."""

    spec: ExportSpec

    def arguments(self, batch: int, steps: int) -> Arguments:
        """So many samples, of so many steps where these are free."""
        spec, draws = self.spec, torch.Generator().manual_seed(batch)
        assert spec.sample_shape is not None
        shape = (batch, *(min(steps, spec.max_length) if size is None else size for size in spec.sample_shape))
        if spec.vocab_size is not None:
            return (torch.randint(spec.vocab_size, shape, generator=draws),), {}
        return (torch.randn(shape, generator=draws),), {}

    def axes(self) -> Arguments:
        """The free axes of each input, by name."""
        assert self.spec.sample_shape is not None
        axes = {0: "batch"}
        if None in self.spec.sample_shape:
            axes[1 + self.spec.sample_shape.index(None)] = "time"
        return (axes,), {}


@dataclass(frozen=True)
class BatchInput:
    """Inputs like a batch's: its samples over and over. The first axis alone is free, where it counts samples."""

    given: Arguments

    @property
    def size(self) -> int:
        size = extract_batch_size([*self.given[0], *self.given[1].values()])
        if not size:
            raise UserError("the example inputs have no axis of samples: give the model an export_wrapper")
        return size

    def arguments(self, batch: int, steps: int) -> Arguments:
        rows, size = torch.arange(batch) % self.size, self.size
        return self._each(lambda x: x[rows] if x.ndim and len(x) == size else x)

    def axes(self) -> Arguments:
        size = self.size
        return self._each(lambda x: {0: "batch"} if x.ndim and len(x) == size else {})

    def _each(self, function: Any) -> Arguments:
        found: Any = apply_to_collection(self.given, Tensor, function)
        return tuple(found[0]), dict(found[1])


Examples = RandomInput | BatchInput


def example_arguments(model: Any, first_batch: Any) -> Arguments:
    """Returns arguments of `forward`: Lightning's `example_input_array` where the model has one, else of a batch.

    Args:
        model: whose `forward` is exported.
        first_batch: makes a batch of the test data.
    """
    given = getattr(model, "example_input_array", None)
    if given is None:
        return forward_arguments(model, first_batch())
    if isinstance(given, dict):
        return (), given
    return (tuple(given) if isinstance(given, tuple | list) else (given,)), {}


def input_names(examples: Examples, module: Any, names: tuple[str, ...] | None) -> list[str]:
    """Returns a name for each tensor that goes in: those given, or those of `forward`'s arguments, numbered where one
    holds several.
    """
    if names is not None:
        return list(names)
    args, kwargs = examples.arguments(2, 2)
    parameters = list(inspect.signature(module.forward).parameters.values())
    found = []
    named = [*((parameters[min(i, len(parameters) - 1)].name, x) for i, x in enumerate(args)), *kwargs.items()]
    for name, value in named:
        inside = len(tensors(value))
        found += [name] if inside == 1 else [f"{name}_{i + 1}" for i in range(inside)]
    return found
