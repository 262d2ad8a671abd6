"""The regression task and its linear model, held against closed forms and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from lab.engine.training.build import build
from lab.models.linear import LinearRegression, LogisticRegression
from tests.conftest import Compose, small

CLOSED = ["data.batch_size=1000000", "optimizer=lbfgs", "scheduler=none", "trainer.precision=64-true", "logger=none"]


def test_metrics_agree_with_scikit_learn(cfg: Compose) -> None:
    module, datamodule, trainer = build(
        cfg(*small("mlp_regressor", "linear"), "data.eval_batch_size=7", "logger=none", "callbacks=none")
    )
    [metrics] = trainer.test(module, datamodule=datamodule, verbose=False)
    with torch.no_grad():
        parts = [(y, module.predict(x)) for x, y in datamodule.test_dataloader()]
    truth, predicted = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    squared = mean_squared_error(truth, predicted)
    assert metrics["test/mse"] == pytest.approx(squared, rel=1e-5)
    assert metrics["test/loss"] == pytest.approx(squared, rel=1e-5)
    assert metrics["test/rmse"] == pytest.approx(np.sqrt(squared), rel=1e-5)
    assert metrics["test/mae"] == pytest.approx(mean_absolute_error(truth, predicted), rel=1e-5)
    assert metrics["test/r2"] == pytest.approx(r2_score(truth, predicted), abs=1e-5)


def test_huber_is_quadratic_then_linear() -> None:
    model = LinearRegression(1, loss="huber", huber_delta=2.0)  # starts at zero: the error is the target
    for target, expected in ((1.0, 0.5), (-2.0, 2.0), (5.0, 2.0 * (5.0 - 1.0))):
        loss = model.training_step((torch.zeros(1, 1), torch.tensor([[target]])), 0)["loss"]
        assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_lbfgs_finds_the_least_squares_solution(seed: int, cfg: Compose) -> None:
    module, datamodule, trainer = build(
        cfg(
            "model=linear_regression",
            "data=linear",
            *CLOSED,
            f"data.seed={seed}",
            "callbacks=none",
            "trainer.max_epochs=5",
        )
    )
    trainer.fit(module, datamodule=datamodule)
    weights, bias = datamodule.solution
    found = torch.cat([module.linear.weight[0], module.linear.bias]).detach()
    expected = torch.cat([weights, torch.as_tensor(bias).reshape(1)])
    assert (found - expected).norm() <= 1e-7 * expected.norm()
    assert ((found - expected).abs() <= 1e-5 * expected.abs()).all()


def test_l2_is_ridge_regression(cfg: Compose) -> None:
    module, datamodule, trainer = build(
        cfg(*small("linear_regression", "linear"), *CLOSED, "model.l2=0.3", "callbacks=none", "trainer.max_epochs=5")
    )
    trainer.fit(module, datamodule=datamodule)
    x, y = (t.double() for t in next(iter(datamodule.train_dataloader())))
    centred, target = x - x.mean(0), y - y.mean(0)
    n = len(x)  # d/dw of mean squared error + l2/2 |w|^2 vanishes
    ridge = torch.linalg.solve(centred.T @ centred * 2 / n + 0.3 * torch.eye(x.shape[1]), centred.T @ target * 2 / n)
    torch.testing.assert_close(module.linear.weight.T, ridge, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_lbfgs_finds_the_regularised_logistic_optimum(seed: int, cfg: Compose) -> None:
    from sklearn.linear_model import LogisticRegression as Reference
    from sklearn.metrics import log_loss

    module, datamodule, trainer = build(
        cfg(
            "model=logistic_regression",
            "data=logistic",
            *CLOSED,
            f"data.seed={seed}",
            "model.l2=0.01",
            "callbacks=none",
            "trainer.max_epochs=5",
        )
    )
    trainer.fit(module, datamodule=datamodule)
    x, y = next(iter(datamodule.train_dataloader()))
    reference = Reference(C=1 / (0.01 * len(x)), tol=1e-10, max_iter=1000).fit(x.numpy(), y.numpy())
    test_x, test_y = (torch.cat(part) for part in zip(*datamodule.test_dataloader(), strict=True))
    with torch.no_grad():
        ours = module(test_x).softmax(1)[:, 1].numpy()
    theirs = reference.predict_proba(test_x.numpy())[:, 1]
    assert abs(log_loss(test_y, ours) - log_loss(test_y, theirs)) <= 1e-5
    assert ((ours > 0.5) == (theirs > 0.5)).mean() >= 0.999
    np.testing.assert_allclose(module.linear.weight.detach().numpy(), reference.coef_, rtol=1e-3, atol=1e-5)


def test_two_classes_have_one_vector_of_coefficients() -> None:
    model = LogisticRegression(3, 2)
    torch.nn.init.normal_(model.linear.weight)
    x = torch.randn(5, 3)
    assert model.linear.weight.shape == (1, 3)
    torch.testing.assert_close(model(x).softmax(1)[:, 1:], torch.sigmoid(model.linear(x)))


@pytest.mark.slow
def test_l1_makes_coefficients_vanish(cfg: Compose) -> None:
    def weights(l1: float) -> torch.Tensor:
        module, datamodule, trainer = build(
            cfg(
                *small("linear_regression", "linear"),
                "optimizer=sgd",
                "optimizer.lr=0.01",
                f"model.l1={l1}",
                "callbacks=none",
                "logger=none",
                "trainer.max_epochs=20",
            )
        )
        trainer.fit(module, datamodule=datamodule)
        return module.linear.weight.detach().abs()

    plain, sparse = weights(0.0), weights(1.0)
    assert sparse.sum() < 0.8 * plain.sum()
    assert (sparse < 0.02).sum() > (plain < 0.02).sum()


def test_targets_are_standardised_where_the_data_says_by_what(cfg: Compose) -> None:
    module, datamodule, trainer = build(
        cfg(*small("linear_regression", "linear"), *CLOSED, "callbacks=none", "trainer.max_epochs=5")
    )
    datamodule.target_scale = (40.0, 8.0)
    trainer.fit(module, datamodule=datamodule)
    assert (module.target_mean, module.target_std) == (40.0, 8.0)
    weights, _ = datamodule.solution
    torch.testing.assert_close(module.linear.weight[0] * 8.0, weights, rtol=1e-5, atol=1e-6)
    x, y = next(iter(datamodule.test_dataloader()))
    [metrics] = trainer.test(module, datamodule=datamodule, verbose=False)
    assert metrics["test/mse"] == pytest.approx(float((module.predict(x).detach() - y).square().mean()), rel=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_figures_of_large_numbers_are_not_rounded(precision: str, cfg: Compose) -> None:
    module, datamodule, trainer = build(
        cfg(*small("linear_regression", "csv"), f"trainer.precision={precision}", "callbacks=none", "logger=none")
    )
    trainer.fit(module, datamodule=datamodule)
    assert module.target_mean > 2000
    [metrics] = trainer.test(module, datamodule=datamodule, verbose=False)
    with torch.no_grad():
        x, y = (torch.cat(part) for part in zip(*datamodule.test_dataloader(), strict=True))
        error = float((module.predict(x).double() - y.double()).square().mean())
    assert metrics["test/mse"] == pytest.approx(error, rel=0.02)
