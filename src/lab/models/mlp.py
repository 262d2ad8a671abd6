"""Multilayer perceptron."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from lab.models.classifier import Classifier

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class MLP(Classifier):
    """Fully connected layers on the flattened input, each followed by batch norm, activation and dropout as chosen.

    Args:
        in_features: D, numbers in one sample.
        num_classes: C.
        hidden_sizes: widths of the hidden layers; none makes softmax regression.
        activation: after each hidden layer.
        dropout: probability of dropping a hidden unit, in [0, 1) (Srivastava et al. 2014).
        batch_norm: between each hidden layer and its activation (Ioffe and Szegedy 2015).
        **task: see `Classifier`.

    Source: Rumelhart, Hinton and Williams 1986.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden_sizes: Sequence[int] = (64, 128, 64),
        activation: Literal["relu", "gelu", "silu", "tanh", "sigmoid"] = "relu",
        dropout: float = 0.0,
        batch_norm: bool = True,
        **task: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **task)
        if any(size < 1 for size in hidden_sizes):
            raise ValueError(f"hidden_sizes={list(hidden_sizes)}: every layer needs at least one unit")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: a probability below 1 is needed")
        layers: list[nn.Module] = [nn.Flatten()]
        size = in_features
        for hidden in hidden_sizes:
            layers.append(nn.Linear(size, hidden, bias=not batch_norm))  # batch norm brings its own bias
            if batch_norm:
                layers.append(nn.BatchNorm1d(hidden))
            layers.append(ACTIVATIONS[activation]())
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            size = hidden
        layers.append(nn.Linear(size, num_classes))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # (B, ...) -> (B, D) -> (B, C)
