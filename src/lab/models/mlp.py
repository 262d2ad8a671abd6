"""Defines the multilayer perceptron, for classes and for numbers."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from lab.engine.utils.ranges import AtLeastTwo, PositiveInt, Probability
from lab.models.tasks.classification import Classifier
from lab.models.tasks.regression import Regressor

Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class MLP(Classifier):
    """Multilayer perceptron: layers on the flattened input, with batch norm, activation and dropout as chosen.

    Args:
        in_features: D, numbers in one sample.
        num_classes: C.
        hidden_sizes: widths of the hidden layers; none makes softmax regression.
        activation: after each hidden layer.
        dropout: probability of dropping a hidden unit (Srivastava et al. 2014).
        batch_norm: between each hidden layer and its activation (Ioffe and Szegedy 2015).
        **task: see `Classifier`.

    Source: Rumelhart, Hinton and Williams 1986.
    """

    def __init__(
        self,
        in_features: PositiveInt = 784,
        num_classes: AtLeastTwo = 10,
        hidden_sizes: Sequence[PositiveInt] = (64, 128, 64),
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        batch_norm: bool = True,
        **task: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **task)
        self.layers = make_mlp(in_features, num_classes, hidden_sizes, activation, dropout, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # (B, ...) -> (B, D) -> (B, C)


class MLPRegressor(Regressor):
    """Multilayer perceptron for regression, with the layers of `MLP`.

    Args:
        in_features: D, numbers in one sample.
        num_targets: K.
        hidden_sizes: see `MLP`, as for the rest.
        activation: after each hidden layer.
        dropout: probability of dropping a hidden unit.
        batch_norm: between each hidden layer and its activation.
        **task: see `Regressor`.

    Source: Rumelhart, Hinton and Williams 1986.
    """

    def __init__(
        self,
        in_features: PositiveInt = 20,
        num_targets: PositiveInt = 1,
        hidden_sizes: Sequence[PositiveInt] = (64, 64),
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        batch_norm: bool = False,
        **task: Any,
    ) -> None:
        super().__init__(num_targets=num_targets, **task)
        self.layers = make_mlp(in_features, num_targets, hidden_sizes, activation, dropout, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # (B, ...) -> (B, D) -> (B, K)


def make_mlp(
    in_features: PositiveInt,
    out_features: PositiveInt,
    hidden_sizes: Sequence[PositiveInt],
    activation: Activation,
    dropout: Probability,
    batch_norm: bool,
) -> nn.Sequential:
    """Makes the layers of both: (B, ...) -> (B, out_features)."""
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
    layers.append(nn.Linear(size, out_features))
    return nn.Sequential(*layers)
