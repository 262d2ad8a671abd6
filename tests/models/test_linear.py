"""Linear models, against their formula."""

import torch

from lab.models.linear import LogisticRegression


def test_logistic_regression_is_one_affine_map() -> None:
    model = LogisticRegression(6, 3)
    with torch.no_grad():
        model.linear.weight.normal_()
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(model(x), x.reshape(5, 6) @ model.linear.weight.T + model.linear.bias)
