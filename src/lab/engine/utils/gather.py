"""Gathers one value of each rank."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytorch_lightning as pl


def gather_objects(value: Any, trainer: "pl.Trainer") -> list[Any]:
    """Returns what each rank calls `value`, by rank. All ranks call it together."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        from torch import distributed

        distributed.all_gather_object(values, value)
    return values
