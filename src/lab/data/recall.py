"""Generates associative recall: pairs of key and value, then keys again, whose values are to be predicted."""

from typing import Any

import torch

from lab.data.tensors import IGNORED, Batch, GeneratedDataModule
from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import PositiveInt


class Recall(GeneratedDataModule):
    """Generates tokens (B, 4 P) and targets (B, 4 P): P pairs of key and value, then the pairs again in a random order.
    Only the values in the second half are targets; the rest is -100.

    Keys are the tokens [0, K), no two alike in one sequence; values are [K, 2 K). Guessing scores 1 / K.

    Args:
        num_pairs: P.
        num_keys: K, at least P; as many values.
        eval_batch_size: samples of one evaluation batch on each rank.
        **generated: see `GeneratedDataModule`.

    Source: Arora et al. 2023 (Zoology), section 3.2, with every key asked for; > 0.99 counts as solved.
    """

    def __init__(
        self,
        num_pairs: PositiveInt = 8,
        num_keys: PositiveInt = 32,
        eval_batch_size: PositiveInt = 1_000,
        **generated: Any,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **generated)
        if num_pairs > num_keys:
            raise UserError(f"num_pairs={num_pairs}, num_keys={num_keys}: keys differ, so give num_pairs <= num_keys")
        self.num_pairs = num_pairs
        self.num_keys = num_keys

    @property
    def optimal_metrics(self) -> dict[str, float]:
        return {"test/acc": 1.0, "test/loss": 0.0}

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        keys = torch.rand(count, self.num_keys, generator=generator).argsort(1)[:, : self.num_pairs]  # (count, P)
        values = torch.randint(self.num_keys, 2 * self.num_keys, keys.shape, generator=generator)
        order = torch.rand(keys.shape, generator=generator).argsort(1)
        shown = torch.stack([keys, values], -1).flatten(1)  # (count, 2 P)
        answers = values.gather(1, order)
        asked = torch.stack([keys.gather(1, order), answers], -1).flatten(1)
        tokens = torch.cat([shown, asked], 1)  # (count, 4 P)
        targets = torch.full_like(tokens, IGNORED)
        targets[:, 2 * self.num_pairs :: 2] = answers
        return tokens, targets
