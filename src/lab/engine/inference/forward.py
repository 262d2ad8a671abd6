"""Passes a batch to the `forward` of any model, and names its outputs."""

import inspect
from collections.abc import Mapping
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional and named


def forward_arguments(model: Any, batch: Any) -> Arguments:
    """Returns the positional and the named arguments of `forward` that `batch` holds.

    Of a tuple or list they are the first ones, as many as `forward` requires: targets stand last. Of a dictionary they
    are the keys that `forward` has arguments for, or the whole where it has none. Anything else is the only argument,
    and so is the whole for a `forward(batch)`.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    if "batch" in [p.name for p in parameters][:1]:
        return (batch,), {}
    if isinstance(batch, Mapping):
        named = {p.name: batch[p.name] for p in parameters if p.name in batch}
        return ((), named) if named else ((batch,), {})
    if isinstance(batch, tuple | list):
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p for p in positional if p.default is p.empty]
        return tuple(batch[: max(1, len(required))]), {}
    return (batch,), {}


def named_outputs(found: Any, name: str = "output") -> dict[str, Any]:
    """Returns a model's outputs as a flat dictionary: one tensor is `output`, several are `output_1` and so on, those
    of a dictionary have its keys. None is left out; a list of plain values is one output, with a row for each sample.
    """
    inside = tuple | list | Mapping | Tensor if isinstance(found, tuple) else Mapping | Tensor
    if isinstance(found, Mapping):
        pairs = [(str(key), value) for key, value in found.items()]
    elif isinstance(found, tuple | list) and any(isinstance(value, inside) for value in found):
        pairs = [(f"{name}_{i + 1}" if len(found) > 1 else name, value) for i, value in enumerate(found)]
    else:
        return {} if found is None else {name: found}
    return {key: leaf for inner, value in pairs for key, leaf in named_outputs(value, inner).items()}


def tensors(nested: Any) -> list[Tensor]:
    """Returns every tensor in any nesting of tuples, lists and dictionaries, in order."""
    found: list[Tensor] = []
    apply_to_collection(nested, Tensor, found.append)
    return found
