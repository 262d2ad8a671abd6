"""Defines linear models."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lab.engine.utils.ranges import AtLeastTwo, PositiveInt
from lab.models.tasks.classification import Classifier
from lab.models.tasks.regression import Regressor


class LinearRegression(Regressor):
    """Linear regression: targets are one affine map of the flattened input.

    With `l2` it is ridge regression, with `l1` the lasso. Its closed form is the least-squares solution, which
    `optimizer=lbfgs` finds from full batches.

    Args:
        in_features: D, numbers in one sample.
        num_targets: K.
        **task: see `Regressor`.

    Source: Bishop, Pattern Recognition and Machine Learning, section 3.1.
    """

    def __init__(self, in_features: PositiveInt = 20, num_targets: PositiveInt = 1, **task: Any) -> None:
        super().__init__(num_targets=num_targets, **task)
        self.linear = _zeros(in_features, num_targets)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))  # (B, ...) -> (B, D) -> (B, K)


class LogisticRegression(Classifier):
    """Logistic regression: logits are one affine map of the flattened input; with two classes the binary model.

    Two classes have one vector of coefficients, which gives the log-odds of class 1 against class 0; the logit of
    class 0 is then zero, and the cross-entropy that of the sigmoid.

    Args:
        in_features: D, numbers in one sample.
        num_classes: C.
        **task: see `Classifier`.

    Source: Bishop, Pattern Recognition and Machine Learning, sections 4.3.2 and 4.3.4.
    """

    def __init__(self, in_features: PositiveInt = 784, num_classes: AtLeastTwo = 10, **task: Any) -> None:
        super().__init__(num_classes=num_classes, **task)
        self.linear = _zeros(in_features, num_classes if num_classes > 2 else 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x.flatten(1))  # (B, ...) -> (B, D) -> (B, C), or (B, 1) with two classes
        return logits if logits.shape[1] > 1 else F.pad(logits, (1, 0))  # -> (B, C)


def _zeros(in_features: int, out_features: int) -> nn.Linear:
    """Makes an affine map that starts at zero: the loss is convex, so any start will do."""
    linear = nn.Linear(in_features, out_features)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
