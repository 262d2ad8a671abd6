"""Generates data of a linear model with Gaussian noise, on which least squares is optimal."""

from typing import Any

import torch
from torch import Tensor

from lab.data.tables import GeneratedTable
from lab.data.tensors import Batch, generator
from lab.engine.utils.ranges import NonNegativeFloat, Probability


class Linear(GeneratedTable):
    """Draws Gaussian features (B, D) and targets y = X w + b + noise, (B, 1); w and b are standard normal, by `seed`.

    Features have mean 0 and variance 1. Neighbours correlate by `collinearity`, features i and j by its power |i - j|:
    a first-order autoregressive process along the row.

    Args:
        noise: standard deviation of the noise, not its variance.
        collinearity: correlation of neighbouring features.
        **table: see `GeneratedTable` and `TableDataModule`.

    Attributes:
        weights: w, (D,), float64, of the features before `standardize`.
        bias: b
    """

    def __init__(self, noise: NonNegativeFloat = 1.0, collinearity: Probability = 0.0, **table: Any) -> None:
        super().__init__(**table)
        self.noise = noise
        self.collinearity = collinearity
        drawn = torch.randn(self.num_features + 1, dtype=torch.float64, generator=generator(self.seed, 3))
        self.weights, self.bias = drawn[:-1], float(drawn[-1])

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        x = torch.randn(count, self.num_features, dtype=torch.float64, generator=generator)
        fresh = (1 - self.collinearity**2) ** 0.5
        for j in range(1, self.num_features):
            x[:, j] = self.collinearity * x[:, j - 1] + fresh * x[:, j]
        noise = self.noise * torch.randn(count, dtype=torch.float64, generator=generator)
        return x, (x @ self.weights + self.bias + noise).unsqueeze(1)

    @property
    def solution(self) -> tuple[Tensor, float]:
        """Returns weights (D,) and bias of least squares on the training split, for features as the model sees them.

        In float64 on the CPU; after `setup`. Where columns depend on each other, the solution of least norm.
        """
        x, y = (t.cpu().double() for t in self.splits["train"])
        # gelsd, by singular values: the default asks for full rank
        found = torch.linalg.lstsq(torch.cat([x, torch.ones_like(y)], 1), y, driver="gelsd").solution.squeeze(1)
        return found[:-1], float(found[-1])

    @property
    def optimal_metrics(self) -> dict[str, float]:
        """Returns the metrics of `solution` on the test split."""
        weights, bias = self.solution
        x, y = (t.cpu().double() for t in self.splits["test"])
        return {"test/mse": float((x @ weights + bias - y.squeeze(1)).square().mean())}
