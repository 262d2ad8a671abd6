"""The metrics of samples, against closed forms, and of samples whose quality is known."""

import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lab.callbacks import generative_metrics
from lab.callbacks.generative_metrics import GenerativeMetrics, frechet, modes, score
from lab.data.draws import Draws
from lab.engine.config.instantiate import instantiate
from tests.conftest import Compose


def with_moments(mean: list[float], factor: list[list[float]]) -> Tensor:
    """Returns features (4, 2) with exactly this mean (2) and the covariance factor @ factor.T (2, 2)."""
    white = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double() * math.sqrt(3 / 2)
    return white @ torch.tensor(factor).double().T + torch.tensor(mean).double()


def test_distance_of_gaussians_that_commute() -> None:
    a, b = with_moments([1, 2], [[2, 0], [0, 3]]), with_moments([1, 0], [[1, 0], [0, 2]])
    assert frechet(a, b) == pytest.approx(4 + (2 - 1) ** 2 + (3 - 2) ** 2)


def test_distance_of_gaussians_that_do_not() -> None:
    a, b = with_moments([0, 0], [[1, 1], [0, 2]]), with_moments([0, 1], [[1, 0], [-0.5, 1.5]])
    product = a.T.cov() @ b.T.cov()
    root_trace = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))  # of any 2 x 2 matrix
    assert frechet(a, b) == pytest.approx(1 + float(a.T.cov().trace() + b.T.cov().trace()) - 2 * root_trace)
    assert frechet(a, b) == pytest.approx(frechet(b, a))


def test_a_set_is_at_no_distance_from_itself() -> None:
    features = torch.randn(300, 20, generator=torch.Generator().manual_seed(0)).relu()
    features[:, 3] = 0  # a unit that is dead
    assert frechet(features, features) == pytest.approx(0, abs=1e-5)


def test_scores_at_the_ends() -> None:
    sure = torch.eye(10).repeat(20, 1) * 1000
    assert score(sure) == pytest.approx(10)
    assert score(sure[:1].repeat(50, 1)) == pytest.approx(1)
    assert score(torch.zeros(50, 10)) == pytest.approx(1)
    half = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    mean = (0.7, 0.3)
    kl = [sum(p * math.log(p / m) for p, m in zip(row, mean, strict=True)) for row in ((0.5, 0.5), (0.9, 0.1))]
    assert score(half) == pytest.approx(math.exp(sum(kl) / 2))
    assert math.isnan(score(torch.full((5, 10), torch.nan)))


def test_a_mode_holds_one_percent() -> None:
    labels = torch.tensor([0] * 180 + [3] * 17 + [5] * 2 + [7])
    assert modes(nn.functional.one_hot(labels, 10).float()) == 3


class Painter(pl.LightningModule):
    """Whose samples are given."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images

    def sample(self, n: int) -> Tensor:
        order = torch.arange(len(self.images)) if n == len(self.images) else torch.randperm(len(self.images))
        return self.images[order[:n]]

    def test_step(self, *_: Any) -> None: ...

    def validation_step(self, *_: Any) -> None: ...


DATA = ["data.num_samples=2500", "data.num_val=500"]


def measure(cfg: Compose, folder: Path, pick: Any, stage: str = "test", **options: Any) -> dict[str, float]:
    """Returns what GenerativeMetrics logs of samples that `pick` makes from the normalised training images."""
    data = instantiate(cfg(*DATA).data)
    data.prepare_data()
    images, labels = data.load()["train"]
    images, labels = data.eval_transform((images, labels), Draws(torch.arange(len(images))))
    callback = GenerativeMetrics(str(folder), **options)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, callbacks=[callback], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    run = trainer.test if stage == "test" else trainer.validate
    [figures] = run(Painter(pick(images, labels)), datamodule=data, verbose=False)
    return {name: float(value) for name, value in figures.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference classifiers of this file: one is trained, the others are loaded."""
    return tmp_path_factory.mktemp("classifiers")


@pytest.mark.slow
def test_real_images_are_at_the_floor(cfg: Compose, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lab.callbacks.generative_metrics"):
        found = measure(cfg, folder, lambda images, labels: images[:500], num_test_samples=500)
    [accuracy] = re.findall(
        r"trained a reference classifier: test accuracy (0\.\d{4}), saved as .*digits-\w{12}", caplog.text
    )
    assert float(accuracy) > 0.5
    assert set(found) == {f"test/{n}" for n in ("frechet", "frechet_floor", "frechet_ratio", "score", "modes")}
    assert found["test/frechet_ratio"] == pytest.approx(1, rel=1e-4)
    assert found["test/modes"] == 10
    assert 2 < found["test/score"] < 10


@pytest.mark.slow
def test_worse_samples_are_farther(cfg: Compose, folder: Path) -> None:
    torch.manual_seed(0)
    noisy = measure(cfg, folder, lambda images, labels: images + 0.5 * torch.randn_like(images), "val")
    noise = measure(cfg, folder, lambda images, labels: torch.randn_like(images), "val")
    real = measure(cfg, folder, lambda images, labels: images, "val")
    assert set(real) == {"val/frechet", "val/score", "val/modes"}
    assert real["val/frechet"] < noisy["val/frechet"] < noise["val/frechet"]


@pytest.mark.slow
def test_what_is_left_out_is_missed(cfg: Compose, folder: Path) -> None:
    whole = measure(cfg, folder, lambda images, labels: images)
    ones = measure(cfg, folder, lambda images, labels: images[labels == 1].repeat(20, 1, 1, 1))
    assert ones["test/modes"] < whole["test/modes"]
    assert ones["test/score"] < whole["test/score"]
    assert ones["test/frechet"] > 5 * whole["test/frechet"]


@pytest.mark.slow
def test_a_reference_classifier_is_trained_once(cfg: Compose, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure(cfg, folder, lambda images, labels: images)
    [path] = folder.glob("*.pt")
    state = torch.load(path, weights_only=True)
    assert state["head.4.weight"].shape == (10, 84)
    monkeypatch.setattr(generative_metrics, "train_classifier", lambda *_: pytest.fail("trained again"))
    assert measure(cfg, folder, lambda images, labels: images) == first


@pytest.mark.slow
def test_measuring_leaves_the_runs_randomness_alone(cfg: Compose, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    measure(cfg, tmp_path, lambda images, labels: images, num_test_samples=100)
    assert torch.equal(torch.get_rng_state(), before)
