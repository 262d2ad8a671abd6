"""Generates two classes whose log-odds are linear, as logistic regression assumes."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.data.tables import GeneratedTable
from lab.data.tensors import Batch, generator
from lab.engine.utils.ranges import NonNegativeFloat


class Logistic(GeneratedTable):
    """Draws standard normal features (B, D) and labels, Bernoulli(sigmoid(X w + b)); w and b are drawn by `seed`.

    Args:
        signal: standard deviation of the log-odds X w; the larger, the easier to tell the classes apart.
        **table: see `GeneratedTable` and `TableDataModule`.

    Attributes:
        weights: w, (D,), float64, of the features before `standardize`; a random direction of length `signal`.
        bias: b, standard normal.
    """

    def __init__(self, signal: NonNegativeFloat = 3.0, **table: Any) -> None:
        super().__init__(**table)
        drawn = torch.randn(self.num_features + 1, dtype=torch.float64, generator=generator(self.seed, 3))
        self.weights, self.bias = signal * F.normalize(drawn[:-1], dim=0), float(drawn[-1])

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        x = torch.randn(count, self.num_features, dtype=torch.float64, generator=generator)
        chance = torch.sigmoid(x @ self.weights + self.bias)
        return x, torch.bernoulli(chance, generator=generator).long()

    @property
    def solution(self) -> tuple[Tensor, float]:
        """Returns the true weights (D,) and bias, for features as the model sees them; after `setup`.

        The log-odds of class 1; a softmax over two logits has them as the difference of its rows.
        """
        return self.weights * self.preprocessor.std, self.bias + float((self.weights * self.preprocessor.mean).sum())

    @property
    def optimal_metrics(self) -> dict[str, float]:
        """Returns log-loss in nats and accuracy of the true coefficients on the test split.

        They are the best in expectation: on a finite split a model may come out ahead by chance.
        """
        x, labels = self.test_rows()
        logits = x @ self.weights + self.bias
        return {
            "test/loss": float(F.binary_cross_entropy_with_logits(logits, labels.double())),
            "test/acc": float(((logits > 0) == labels.bool()).double().mean()),
        }
