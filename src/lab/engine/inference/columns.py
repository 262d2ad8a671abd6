"""Turns what a model says of a batch into columns of a table."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lab.engine.inference.forward import named_outputs
from lab.engine.inference.output import Columns
from lab.engine.utils.errors import UserError

MOST = 4096  # columns of one output


def to_columns(output: Any) -> dict[str, Columns]:
    """Returns the columns of each output: numbers, words or lists as they are; of several numbers for each sample
    numbered columns, counted from 1.

    Args:
        output: a dictionary of columns, a tensor, or any nesting of both; the first axis of a tensor counts samples.

    Raises:
        UserError: for what is no column.
    """
    found = {name: _columns(name, value) for name, value in named_outputs(output).items()}
    if not found:
        raise UserError("the model returned nothing for a batch: predict_step is to return a dict of columns")
    lengths = {name: len(column) for columns in found.values() for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"the model's outputs for a batch have different lengths: {told}; each needs a row a sample")
    return found


def _columns(name: str, value: Any) -> Columns:
    if not isinstance(value, Tensor):
        if isinstance(value, Sequence) and not isinstance(value, str):
            return {name: list(value)}
        raise UserError(f"{name}: {type(value).__name__} is no column: give a tensor or a list, a row a sample")
    if value.ndim == 0:
        raise UserError(f"{name}: one number for a whole batch is no column: give one for each sample")
    if value.ndim == 1:
        return {name: plain(value)}
    rows = value.flatten(1)  # (B, ...) -> (B, K)
    if rows.shape[1] == 1:
        return {name: plain(rows[:, 0])}
    if rows.shape[1] > MOST:
        raise UserError(
            f"{name}: {tuple(value.shape[1:])} numbers for each sample are too many columns (at most {MOST}): give the"
            " model a predict_step that says less"
        )
    return {f"{name}_{i + 1}": plain(column) for i, column in enumerate(rows.T)}


def plain(values: Tensor) -> list[Any]:
    """Returns numbers (B,) as Python's, with as many digits as their own precision has."""
    values = values.detach().cpu()
    if not values.is_floating_point() or values.dtype.itemsize == 8:
        return values.tolist()
    return [float(str(value)) for value in values.float().numpy()]
