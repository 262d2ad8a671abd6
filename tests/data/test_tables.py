"""Generated tables: what is best is right, only training rows are learned from, dirt shows and is cleaned."""

import logging
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.distributions import MultivariateNormal

from lab.data.blobs import Blobs
from lab.data.linear import Linear
from lab.data.logistic import Logistic
from lab.data.prepare import stratified_split
from lab.data.tables import GeneratedTable, TableDataModule, corrupt
from lab.data.tensors import Batch, generator
from lab.engine.config.instantiate import instantiate
from tests.conftest import SMALL, Compose

SIZES: dict[str, Any] = {"num_features": 6, "num_samples": 2000, "num_val": 400, "num_test": 2000, "batch_size": 50}
KINDS = [Linear, Logistic, Blobs]


def made(kind: type[GeneratedTable], **options: Any) -> Any:
    data = kind(**(SIZES | options))
    data.setup("fit")
    return data


def split(data: TableDataModule, name: str) -> Batch:
    return data.splits[name]


def rows(data: TableDataModule, name: str) -> set[tuple[float, ...]]:
    return {tuple(row) for row in split(data, name)[0].tolist()}


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_shapes_and_seed(kind: type[GeneratedTable]) -> None:
    data = made(kind)
    assert [len(split(data, name)[0]) for name in ("train", "val", "test")] == [1600, 400, 2000]
    assert not rows(data, "train") & rows(data, "val")
    assert not (rows(data, "train") | rows(data, "val")) & rows(data, "test")
    features, targets = next(iter(data.train_dataloader()))
    assert features.shape == (50, 6)
    assert features.dtype == torch.float32
    assert targets.shape == ((50, 1) if kind is Linear else (50,))
    assert targets.dtype == (torch.float32 if kind is Linear else torch.int64)
    again, other = made(kind), made(kind, seed=1)
    for name in ("train", "val", "test"):
        assert torch.equal(split(data, name)[0], split(again, name)[0])
        assert not torch.equal(split(data, name)[0], split(other, name)[0])


@pytest.mark.parametrize("choice", ["linear", "logistic", "blobs"])
def test_dims_are_what_a_batch_holds(choice: str, cfg: Compose) -> None:
    composed = cfg(f"data={choice}", "model=mlp" if choice != "linear" else "model=lenet", *SMALL)
    data = instantiate(composed.data)
    data.setup("fit")
    features, targets = next(iter(data.train_dataloader()))
    assert features.shape[1] == composed.dims.features
    if choice == "linear":
        assert targets.shape[1] == composed.dims.targets
    else:
        assert set(split(data, "train")[1].tolist()) == set(range(composed.dims.classes))


@pytest.mark.parametrize("standardize", [False, True])
def test_least_squares_is_that_of_numpy(standardize: bool) -> None:
    data = made(Linear, standardize=standardize)
    x, y = (t.double().numpy() for t in split(data, "train"))
    expected = np.linalg.lstsq(np.hstack([x, np.ones_like(y)]), y, rcond=None)[0]
    weights, bias = data.solution
    np.testing.assert_allclose(np.append(weights.numpy(), bias), expected[:, 0], rtol=1e-9)
    x, y = (t.double().numpy() for t in split(data, "test"))
    assert data.optimal_metrics == {"test/mse": pytest.approx(np.mean((x @ expected[:-1] + expected[-1] - y) ** 2))}
    # the noise's variance; four standard errors
    assert data.optimal_metrics["test/mse"] == pytest.approx(1.0, abs=0.12)
    if not standardize:
        assert (weights - data.weights).abs().max() < 0.12  # four standard errors: 4 / sqrt(1600), and some
        assert abs(bias - data.bias) < 0.12


def test_without_noise_least_squares_finds_the_coefficients() -> None:
    data = made(Linear, noise=0.0, collinearity=0.5)
    torch.testing.assert_close(data.solution[0], data.weights, atol=1e-5, rtol=0)  # rows are kept in float32


def test_dependent_columns_have_a_finite_solution() -> None:
    data = made(Linear, num_features=40, num_samples=30, num_val=10)  # more columns than rows
    assert data.solution[0].isfinite().all()


@pytest.mark.parametrize("collinearity", [0.0, 0.6, 0.95])
def test_neighbours_correlate_as_asked(collinearity: float) -> None:
    found = np.corrcoef(split(made(Linear, collinearity=collinearity, num_samples=20_000), "train")[0].numpy().T)
    distance = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    np.testing.assert_allclose(found, collinearity**distance, atol=0.03)  # four standard errors: 4 / sqrt(19600)


@pytest.mark.parametrize("standardize", [False, True])
def test_true_coefficients_are_best_in_the_units_of_the_model(standardize: bool) -> None:
    data = made(Logistic, num_samples=20_000, num_test=5000, standardize=standardize)
    x, labels = (t.double().numpy() for t in split(data, "test"))
    weights, bias = data.solution
    logits = x @ weights.numpy() + bias
    loss = np.mean(np.logaddexp(0, -logits * (2 * labels - 1)))
    assert data.optimal_metrics["test/loss"] == pytest.approx(loss, rel=1e-5)
    assert data.optimal_metrics["test/acc"] == pytest.approx(np.mean((logits > 0) == labels), abs=1e-3)
    x, labels = (t.double().numpy() for t in split(data, "train"))
    theirs = LogisticRegression(C=1e6).fit(x, labels)
    np.testing.assert_allclose(theirs.coef_[0], weights.numpy(), atol=0.25)
    assert theirs.intercept_[0] == pytest.approx(bias, abs=0.15)


@pytest.mark.parametrize("standardize", [False, True])
def test_the_bayes_rule_is_the_largest_density(standardize: bool) -> None:
    data = made(Blobs, num_classes=4, separation=2.5, num_samples=20_000, standardize=standardize)
    plain = made(Blobs, num_classes=4, separation=2.5, num_samples=20_000)
    x, labels = split(plain, "test")
    density = MultivariateNormal(plain.means, torch.eye(6).double()).log_prob(x.double().unsqueeze(1))  # (N, 4)
    accuracy = float((density.argmax(1) == labels).double().mean())
    assert data.optimal_metrics["test/acc"] == pytest.approx(accuracy, abs=1e-3)
    x, labels = split(data, "train")
    fitted = LinearDiscriminantAnalysis().fit(x.numpy(), labels.numpy())
    theirs = fitted.score(*(t.numpy() for t in split(data, "test")))
    assert theirs == pytest.approx(accuracy, abs=0.02)


def test_the_bayes_error_of_two_clouds_is_known() -> None:
    data = made(Blobs, num_classes=2, separation=3.0)
    half = float((data.means[0] - data.means[1]).norm()) / 2
    exact = 0.5 * float(torch.erfc(torch.tensor(half / 2**0.5)))
    assert data.bayes_error == pytest.approx(exact, abs=4 * (exact / 200_000) ** 0.5)
    assert data.bayes_error == data.bayes_error


def test_the_shipped_blobs_have_a_bayes_error_of_five_percent(cfg: Compose) -> None:
    assert instantiate(cfg("data=blobs", "model=mlp").data).bayes_error == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", ["mean", "median", "drop"])
def test_corrupt_rows_are_cleaned(kind: type[GeneratedTable], missing: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = made(kind, dirty=0.05, missing=missing)
    clean = made(kind)
    for name in ("train", "val", "test"):
        assert split(data, name)[0].isfinite().all()
    assert torch.equal(split(data, "test")[0], split(clean, "test")[0]), "the test rows stay clean"
    assert not rows(data, "train") & rows(data, "val")
    said = caplog.messages[0]
    kept = len(split(data, "train")[0]) + len(split(data, "val")[0])
    if missing == "drop":
        whole = 0.95**6  # of the rows
        assert kept == pytest.approx(whole * 2000, abs=4 * (whole * (1 - whole) * 2000) ** 0.5)
        cleaned = f"{2000 - kept} rows without all features dropped"
    else:
        assert kept == 2000
        features, targets = data.draw(4000, generator(0, 0))
        dirty = corrupt(features[:2000], targets[:2000], 0.05, generator(0, 1))[0]
        cleaned = f"{int((~dirty[:2000].isfinite()).sum())} missing values imputed by the {missing}"
    sizes = f"train {kept - 400:,}, val 400, test 2,000"
    assert said == f"prepared: 2,100 rows, 100 duplicates dropped, {cleaned}; {sizes}"


def test_rows_are_corrupted_at_the_rate_asked_for() -> None:
    x, y = torch.zeros(5000, 4, dtype=torch.float64), torch.arange(5000)
    dirty, labels = corrupt(x, y, 0.1, torch.Generator().manual_seed(0))
    assert len(dirty) == len(labels) == 5500
    assert labels[:5000].tolist() == list(range(5000))
    assert len(set(labels[5000:].tolist())) == 500
    for kind in (dirty.isnan(), dirty == torch.inf, dirty == -torch.inf):
        assert float(kind[:5000].double().mean()) == pytest.approx(0.1 / 3, abs=0.006)
    assert torch.equal(dirty[5000:].nan_to_num(1, 2, 3), dirty[labels[5000:]].nan_to_num(1, 2, 3))
    untouched, _ = corrupt(x, y, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(untouched, x)


class Fixed(TableDataModule):
    """Given rows, split by `prepare` alone."""

    def __init__(self, features: Tensor, targets: Tensor, **table: Any) -> None:
        super().__init__(batch_size=4, **table)
        self.rows = features, targets

    def load(self) -> dict[str, Batch]:
        return self.prepare(*self.rows, {"val": 0.2, "test": 0.2})


@pytest.fixture
def gappy() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(100, 3, dtype=torch.float64, generator=g)
    x[torch.rand(100, 3, generator=g) < 0.2] = torch.nan
    return x, torch.arange(100) % 2


@pytest.mark.parametrize("missing", ["mean", "median"])
def test_nothing_is_learned_from_rows_held_out(missing: str, gappy: tuple[Tensor, Tensor]) -> None:
    x, labels = gappy
    before = Fixed(x, labels, missing=missing)
    before.setup("fit")
    index = stratified_split(labels, {"val": 0.2, "test": 0.2}, generator(0, 2))
    changed = x.clone()
    for name in ("val", "test"):
        changed[index[name]] = changed[index[name]] * 50 + 1000
    after = Fixed(changed, labels, missing=missing)
    after.setup("fit")
    assert torch.equal(split(before, "train")[0], split(after, "train")[0])
    assert before.preparation == after.preparation
    assert not torch.equal(split(before, "test")[0], split(after, "test")[0])
    torch.testing.assert_close(split(before, "train")[0].mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    # A gap in a test row holds what the training rows say, whatever stands in the other test rows.
    gaps = x[index["test"]].isnan()
    assert gaps.any()
    assert torch.equal(split(before, "test")[0][gaps], split(after, "test")[0][gaps])


def test_gaps_in_shares_are_counted(gappy: tuple[Tensor, Tensor], caplog: pytest.LogCaptureFixture) -> None:
    x, labels = gappy
    labels = labels.clone()
    labels[:7] = -1
    with caplog.at_level(logging.INFO):
        Fixed(torch.cat([x, x[50:62]]), torch.cat([labels, labels[50:62]])).setup("fit")
    gaps = int(x[7:].isnan().sum())
    assert caplog.messages == [
        f"prepared: 112 rows, 7 rows without a target dropped, 12 duplicates dropped, {gaps} missing values imputed by"
        " the median; train 55, val 19, test 19"
    ]


@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("32-true", torch.float32)])
def test_rows_are_kept_in_the_precision_of_the_trainer(precision: Any, dtype: torch.dtype) -> None:
    data = Linear(**SIZES)
    data.trainer = pl.Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    data.setup("fit")
    assert {t.dtype for name in ("train", "val", "test") for t in split(data, name)} == {dtype}


@pytest.mark.parametrize("kind", KINDS)
def test_validation_leaves_rows_to_train_on(kind: type[GeneratedTable]) -> None:
    with pytest.raises(ValueError, match=r"num_val=2000.*num_samples=2000"):
        made(kind, num_val=2000)
