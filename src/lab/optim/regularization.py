"""Computes penalties in the loss."""

from torch import Tensor, nn

from lab.engine.utils.ranges import NonNegativeFloat


def penalty(module: nn.Module, l1: NonNegativeFloat, l2: NonNegativeFloat) -> Tensor | float:
    """Returns `l1` sum |w| + `l2` / 2 sum w^2 over the weights, the parameters with two dimensions or more.

    Unlike `weight_decay` it is part of the loss, so that it works with any optimizer, L-BFGS too.

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 3.4.
    """
    if l1 == 0 and l2 == 0:
        return 0.0
    weights = [p for p in module.parameters() if p.ndim >= 2 and p.requires_grad]
    return sum(l1 * w.abs().sum() + l2 / 2 * w.square().sum() for w in weights)
