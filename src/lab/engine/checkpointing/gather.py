"""Gathers one value of each rank."""

from typing import Any

import pytorch_lightning as pl
from torch import distributed


def gather_objects(value: Any, trainer: pl.Trainer) -> list[Any]:
    """What each rank calls `value`, by rank. All ranks call it together."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        distributed.all_gather_object(values, value)
    return values
