"""Associative recall: pairs are shown, then a key is asked for, and its value is the answer."""

from typing import Any

import torch

from lab.data.module import Batch, TensorDataModule, generator, sizes
from lab.models.language_model import IGNORED


class Recall(TensorDataModule):
    """Tokens (B, 4 P) and targets (B, 4 P): P pairs of key and value, then each key again, in a random order, and its
    value. Only the token after a key that is asked for is a target; the rest is -100.

    Keys are the tokens [0, K), no two alike in one sequence; values are [K, 2 K). Guessing scores 1 / K.

    Args:
        num_pairs: P.
        num_keys: K, at least P; as many values.
        num_samples: to train on, validation included.
        num_val: of these, held out.
        num_test: on top.
        seed: of the pairs.
        **loading: see `TensorDataModule`.

    Source: Arora et al. 2023 (Zoology), section 3.2, with every key asked for; > 0.99 counts as solved.
    """

    def __init__(
        self,
        num_pairs: int = 8,
        num_keys: int = 32,
        num_samples: int = 60_000,
        num_val: int = 2_000,
        num_test: int = 10_000,
        seed: int = 0,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if not 1 <= num_pairs <= num_keys:
            raise ValueError(
                f"num_pairs={num_pairs}, num_keys={num_keys}: keys differ, so give 1 <= num_pairs <= num_keys"
            )
        self.num_pairs = num_pairs
        self.num_keys = num_keys
        self.sizes = sizes(num_samples, num_val, num_test)
        self.seed = seed

    @property
    def optimum(self) -> dict[str, float]:
        return {"test/acc": 1.0, "test/loss": 0.0}

    def load(self) -> dict[str, Batch]:
        return {name: self._draw(size, generator(self.seed, i)) for i, (name, size) in enumerate(self.sizes.items())}

    def _draw(self, count: int, draws: torch.Generator) -> Batch:
        keys = torch.rand(count, self.num_keys, generator=draws).argsort(1)[:, : self.num_pairs]  # (count, P)
        values = torch.randint(self.num_keys, 2 * self.num_keys, keys.shape, generator=draws)
        order = torch.rand(keys.shape, generator=draws).argsort(1)
        shown = torch.stack([keys, values], -1).flatten(1)  # (count, 2 P)
        answers = values.gather(1, order)
        asked = torch.stack([keys.gather(1, order), answers], -1).flatten(1)
        tokens = torch.cat([shown, asked], 1)  # (count, 4 P)
        targets = torch.full_like(tokens, IGNORED)
        targets[:, 2 * self.num_pairs :: 2] = answers
        return tokens, targets
