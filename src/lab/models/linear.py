"""Linear models."""

from typing import Any

from torch import Tensor, nn

from lab.models.classifier import Classifier


class LogisticRegression(Classifier):
    """Softmax regression: logits are one affine map of the flattened input.

    Args:
        in_features: D, numbers in one sample.
        num_classes: C.
        **task: see `Classifier`.

    Source: Bishop, Pattern Recognition and Machine Learning, section 4.3.4.
    """

    def __init__(self, in_features: int, num_classes: int, **task: Any) -> None:
        super().__init__(num_classes=num_classes, **task)
        self.linear = nn.Linear(in_features, num_classes)
        nn.init.zeros_(self.linear.weight)  # convex: any start will do, and this one favours no class
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))  # (B, ...) -> (B, D) -> (B, C)
