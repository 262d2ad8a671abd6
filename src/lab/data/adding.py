"""The adding problem: which two numbers of a long sequence are marked, and what is their sum?"""

from typing import Any

import torch

from lab.data.module import Batch, TensorDataModule, generator, sizes


class Adding(TensorDataModule):
    """Sequences (B, T, 2), lengths (B,) and sums (B, 1).

    Each step holds a number from [0, 1) and a mark; one step in each half of the sequence is marked with 1, and the sum
    of the two marked numbers is the target. Whoever always answers 1 has a squared error of 1/6; the least is 0.

    Args:
        length: T, at least 2.
        min_length: shorter sequences, of lengths drawn between the two and padded with zeros, where it is below
            `length`; null for none.
        num_samples: to train on, validation included.
        num_val: of these, held out.
        num_test: on top.
        seed: of the numbers.
        **loading: see `TensorDataModule`.

    Source: Hochreiter and Schmidhuber 1997, section 5.4, without the negative numbers, as in Bai, Kolter and Koltun
    2018, section 4.1.
    """

    def __init__(
        self,
        length: int = 100,
        min_length: int | None = None,
        num_samples: int = 60_000,
        num_val: int = 5_000,
        num_test: int = 10_000,
        seed: int = 0,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if min_length is None:
            min_length = length
        if not 2 <= min_length <= length:
            raise ValueError(
                f"length={length}, min_length={min_length}: two steps are marked, so give 2 <= min_length <= length"
            )
        self.length = length
        self.min_length = min_length
        self.sizes = sizes(num_samples, num_val, num_test)
        self.seed = seed

    @property
    def optimum(self) -> dict[str, float]:
        return {"test/mse": 0.0}

    def load(self) -> dict[str, Batch]:
        return {name: self._draw(size, generator(self.seed, i)) for i, (name, size) in enumerate(self.sizes.items())}

    def _draw(self, count: int, draws: torch.Generator) -> Batch:
        numbers = torch.rand(count, self.length, generator=draws)
        lengths = torch.randint(self.min_length, self.length + 1, (count,), generator=draws)
        half = lengths // 2
        first = (torch.rand(count, generator=draws) * half).long()
        second = half + (torch.rand(count, generator=draws) * (lengths - half)).long()
        marks = torch.zeros(count, self.length)
        marks.scatter_(1, torch.stack([first, second], 1), 1.0)
        sums = (numbers * marks).sum(1, keepdim=True)  # (count, 1)
        inside = torch.arange(self.length) < lengths.unsqueeze(1)
        return torch.stack([numbers * inside, marks], -1), lengths, sums
