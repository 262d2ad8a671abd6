"""What of a batch goes into a model's `forward`, and what comes out, as flat lists: for models of any kind."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def forward_arguments(model: Any, batch: Any) -> Arguments:
    """Returns the positional and the named arguments of `forward` that `batch` holds.

    Of a tuple or list they are the first ones, as many as `forward` requires: targets stand last. Of a dictionary they
    are the keys that `forward` has arguments for, or the whole where it has none. Anything else is the only argument.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    if isinstance(batch, Mapping):
        named = {p.name: batch[p.name] for p in parameters if p.name in batch}
        return ((), named) if named else ((batch,), {})
    if isinstance(batch, tuple | list):
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        required = [p for p in parameters if p.kind in positional and p.default is inspect.Parameter.empty]
        return tuple(batch[: max(1, len(required))]), {}
    return (batch,), {}


def named_outputs(found: Any, name: str = "output") -> dict[str, Any]:
    """Returns what a model gives as a flat dictionary: one tensor is `output`, several are `output_1` and so on, those
    of a dictionary have its keys. What is None is left out.
    """
    if isinstance(found, Mapping):
        pairs = [(str(key), value) for key, value in found.items()]
    elif isinstance(found, tuple | list) and any(isinstance(v, Tensor | tuple | list | Mapping) for v in found):
        pairs = [(f"{name}_{i + 1}" if len(found) > 1 else name, value) for i, value in enumerate(found)]
    else:
        return {} if found is None else {name: found}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        inner = isinstance(value, Mapping) or (
            isinstance(value, tuple | list) and isinstance(next(iter(value), None), Tensor)
        )
        flat |= named_outputs(value, key) if inner or value is None else {key: value}
    return flat


def tensors(nested: Any) -> list[Tensor]:
    """Returns every tensor in any nesting of tuples, lists and dictionaries, in order."""
    if isinstance(nested, Tensor):
        return [nested]
    inside = nested.values() if isinstance(nested, Mapping) else nested if isinstance(nested, tuple | list) else ()
    return [tensor for value in inside for tensor in tensors(value)]
