"""The classification task, against counts by hand, and what it and its architectures refuse."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lab.engine.training.build import build
from lab.engine.utils.errors import UserError
from lab.models.cnn import CNN
from lab.models.lenet import LeNet
from lab.models.mlp import MLP
from tests.conftest import SMALL, Compose


def test_label_smoothing_is_the_mixture_with_the_uniform() -> None:
    model = MLP(4, 3, hidden_sizes=[], label_smoothing=0.3)
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    log_p = model(x).log_softmax(1)
    target = 0.7 * F.one_hot(y, 3) + 0.3 / 3
    torch.testing.assert_close(model.training_step((x, y), 0)["loss"], -(target * log_p).sum(1).mean())


def test_metrics_agree_with_counts_by_hand(cfg: Compose) -> None:
    module, datamodule, trainer = build(cfg(*SMALL, "logger=none", "callbacks=none"))
    [metrics] = trainer.test(module, datamodule=datamodule, verbose=False)
    module.eval()
    with torch.no_grad():
        logits, labels = (
            torch.cat(parts) for parts in zip(*[(module(x), y) for x, y in datamodule.test_dataloader()], strict=True)
        )
    predicted = logits.argmax(1)
    hits = torch.stack([((predicted == k) & (labels == k)).sum() for k in range(10)]).double()
    guesses, truths = predicted.bincount(minlength=10).double(), labels.bincount(minlength=10).double()
    precision, recall = hits / guesses.clamp(min=1), hits / truths
    f1 = 2 * hits / (guesses + truths)
    assert metrics["test/loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert metrics["test/acc"] == pytest.approx(float((predicted == labels).double().mean()))
    assert metrics["test/precision"] == pytest.approx(float(precision.mean()), rel=1e-5)
    assert metrics["test/recall"] == pytest.approx(float(recall.mean()), rel=1e-5)
    assert metrics["test/f1"] == pytest.approx(float(f1.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LeNet(image_shape=[1, 27, 27]), r"image_shape=\[1, 27, 27\]"),
        (lambda: CNN(channels=[8] * 6), r"cannot be halved 6 times"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()  # type: ignore[operator]


def test_a_subclass_has_a_loss_and_metrics_of_its_own(cfg: Compose) -> None:
    class Focal(LeNet):
        def compute_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            log_p = logits.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
            return -((1 - log_p.exp()).square() * log_p).mean()  # Lin et al. 2017, equation 4 with gamma = 2

        def make_metrics(self, stage: str) -> dict[str, Any]:
            return {**super().make_metrics(stage), "top2": MulticlassAccuracy(10, average="micro", top_k=2)}

    module, (_, datamodule, trainer) = Focal(), build(cfg(*SMALL, "logger=none", "callbacks=none"))
    [metrics] = trainer.test(module, datamodule=datamodule, verbose=False)
    with torch.no_grad():
        pairs = [(module.eval()(x), y) for x, y in datamodule.test_dataloader()]
    logits, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    hits = (logits.topk(2).indices == labels.unsqueeze(1)).any(1)
    assert metrics["test/top2"] == pytest.approx(float(hits.double().mean()))
    p = logits.softmax(1)[range(len(labels)), labels]
    assert metrics["test/loss"] == pytest.approx(float((-((1 - p) ** 2) * p.log()).mean()), rel=1e-4)


def test_training_without_an_optimizer_says_so() -> None:
    with pytest.raises(UserError, match="optimizer=…"):
        LeNet().configure_optimizers()
