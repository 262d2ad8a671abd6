"""Generates Gaussian clouds, one for each class, whose best classifier is known."""

from typing import Any

import torch
from torch import Tensor

from lab.data.tables import GeneratedTable
from lab.data.tensors import Batch, generator
from lab.engine.utils.ranges import AtLeastTwo, NonNegativeFloat, PositiveInt


class Blobs(GeneratedTable):
    """Draws from `num_classes` Gaussians with covariance I and equal weights: features (B, D), labels (B,).

    Args:
        num_features: D.
        num_classes: K.
        separation: root mean square distance of two class means, in standard deviations of a cloud. The default makes a
            Bayes error of about 5 % with 10 classes of 100 features.
        **table: see `GeneratedTable` and `TableDataModule`.

    Attributes:
        means: (num_classes, D), float64, of the features before `standardize`; drawn by `seed` from a Gaussian.
    """

    def __init__(
        self,
        num_features: PositiveInt = 100,
        num_classes: AtLeastTwo = 10,
        separation: NonNegativeFloat = 4.8,
        **table: Any,
    ) -> None:
        super().__init__(num_features=num_features, **table)
        shape = num_classes, self.num_features
        drawn = torch.randn(shape, dtype=torch.float64, generator=generator(self.seed, 3))
        self.means = drawn * separation / (2 * self.num_features) ** 0.5

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        labels = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn(count, self.num_features, dtype=torch.float64, generator=generator)
        return self.means[labels] + noise, labels

    def bayes_rule(self, features: Tensor) -> Tensor:
        """Returns the likeliest class (N,) of features (N, D) as drawn: the nearest mean's, as all clouds are alike."""
        return torch.cdist(features, self.means).argmin(1)

    @property
    def bayes_error(self) -> float:
        """Estimates the error rate that no classifier beats in expectation, from 200,000 fresh rows.

        Good to 0.0005 (one standard error at an error of 5 %).
        """
        source = generator(self.seed, 4)
        wrong = 0
        for _ in range(20):  # bounds the memory
            features, labels = self.draw(10_000, source)
            wrong += int((self.bayes_rule(features) != labels).sum())
        return wrong / 200_000

    @property
    def optimal_metrics(self) -> dict[str, float]:
        """Returns the accuracy of the Bayes rule on the test split, which a model may exceed by chance."""
        features, labels = self.test_rows()
        return {"test/acc": float((self.bayes_rule(features) == labels).double().mean())}
