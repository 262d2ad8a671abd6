"""Generates the adding problem: the sum of the two marked numbers of a long sequence."""

from typing import Any

import torch

from lab.data.tensors import Batch, GeneratedDataModule
from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import AtLeastTwo


class Adding(GeneratedDataModule):
    """Generates sequences (B, T, 2), lengths (B,) and sums (B, 1).

    Each step holds a number from [0, 1) and a mark; one step in each half of the sequence is marked with 1, and the sum
    of the two marked numbers is the target. Whoever always answers 1 has a squared error of 1/6; the least is 0.

    Args:
        length: T.
        min_length: shorter sequences, of lengths drawn between the two and padded with zeros, where it is below
            `length`; null for none.
        **generated: see `GeneratedDataModule`.

    Source: Hochreiter and Schmidhuber 1997, section 5.4, without the negative numbers, as in Bai, Kolter and Koltun
    2018, section 4.1.
    """

    def __init__(
        self,
        length: AtLeastTwo = 100,
        min_length: AtLeastTwo | None = None,
        **generated: Any,
    ) -> None:
        super().__init__(**generated)
        if min_length is None:
            min_length = length
        if min_length > length:
            raise UserError(f"length={length}, min_length={min_length}: give min_length <= length")
        self.length = length
        self.min_length = min_length

    @property
    def optimal_metrics(self) -> dict[str, float]:
        return {"test/mse": 0.0}

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        numbers = torch.rand(count, self.length, generator=generator)
        lengths = torch.randint(self.min_length, self.length + 1, (count,), generator=generator)
        half = lengths // 2
        first = (torch.rand(count, generator=generator) * half).long()
        second = half + (torch.rand(count, generator=generator) * (lengths - half)).long()
        marks = torch.zeros(count, self.length)
        marks.scatter_(1, torch.stack([first, second], 1), 1.0)
        sums = (numbers * marks).sum(1, keepdim=True)  # (count, 1)
        inside = torch.arange(self.length) < lengths.unsqueeze(1)
        return torch.stack([numbers * inside, marks], -1), lengths, sums
