"""What every architecture keeps, found by globbing the configs."""

import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F

from lab.build import instantiate
from lab.compose import CONFIGS, ROOT
from lab.models import CNN, MLP, LeNet, LogisticRegression
from lab.training import build, compile_layers
from tests.conftest import SMALL, Compose, choices

MODELS = choices("model")
DATA = choices("data")


def fits(model: str, data: str) -> bool:
    needs = str(OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / f"{model}.yaml")))
    offers = OmegaConf.load(CONFIGS / "data" / f"{data}.yaml").dims
    return all(f"dims.{name}" not in needs or name in offers for name in ("image", "features", "classes"))


@pytest.mark.parametrize(("model", "data"), [(m, d) for m in MODELS for d in DATA if d != "mnist" and fits(m, d)])
def test_every_fitting_pair_takes_a_step_of_each_stage(model: str, data: str, cfg: Compose) -> None:
    module, datamodule, trainer = build(cfg(f"model={model}", f"data={data}", *SMALL, "debug=fast"))
    before = [p.detach().clone() for p in module.parameters()]
    trainer.fit(module, datamodule=datamodule)
    assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    trainer.test(module, datamodule=datamodule, verbose=False)
    assert {"test/loss", "test/acc", "test/precision", "test/recall", "test/f1"} <= set(trainer.callback_metrics)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns_one_batch_by_heart(model: str, cfg: Compose) -> None:
    composed = cfg(f"model={model}", "callbacks=none", "logger=none")
    torch.manual_seed(0)
    module = instantiate(composed.model, optimizer=instantiate(composed.optimizer))
    images, labels = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(150):
        loss = F.cross_entropy(module(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert torch.equal(module(images).argmax(1), labels)


@pytest.mark.parametrize("model", MODELS)
def test_every_checkpoint_is_plain_and_loads_by_itself(model: str, cfg: Compose, tmp_path: Path) -> None:
    module, datamodule, trainer = build(
        cfg(f"model={model}", *SMALL, "trainer.max_epochs=1", "logger=none", "trainer.limit_train_batches=2")
    )
    trainer.fit(module, datamodule=datamodule)
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    kept = torch.load(path, weights_only=True)
    assert not {"optimizer", "scheduler"} & set(kept["hyper_parameters"])
    loaded = type(module).load_from_checkpoint(path)
    images = torch.randn(4, 1, 28, 28)
    module.eval()
    loaded.eval()
    torch.testing.assert_close(loaded(images), module(images))
    code = (
        f"from lab.models import {type(module).__name__} as Model\n"
        f"print(sum(p.numel() for p in Model.load_from_checkpoint({str(path)!r}).parameters()))"
    )
    fresh = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:lab", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT / "src",
        check=True,
    )
    assert int(fresh.stdout) == sum(p.numel() for p in module.parameters())


def test_lenet_has_the_sizes_of_the_paper() -> None:
    sizes = {name: sum(p.numel() for p in layer.parameters()) for name, layer in LeNet().features.named_children()}
    assert sizes["0"] == 156  # C1 of the paper
    assert sum(p.numel() for p in LeNet().head[0].parameters()) == 48_120  # C5
    assert sum(p.numel() for p in LeNet().head[2].parameters()) == 10_164  # F6


def test_logistic_regression_is_one_affine_map() -> None:
    model = LogisticRegression(6, 3)
    with torch.no_grad():
        model.linear.weight.normal_()
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(model(x), x.reshape(5, 6) @ model.linear.weight.T + model.linear.bias)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LeNet(image=[1, 27, 27]), r"image=\[1, 27, 27\]"),
        (lambda: LeNet(channels=[6]), r"channels=\[6\]"),
        (lambda: CNN(channels=[8] * 6), r"cannot be halved 6 times"),
        (lambda: CNN(channels=[]), r"channels=\[\]"),
        (lambda: CNN(dropout=1.0), r"dropout=1.0"),
        (lambda: MLP(4, 2, hidden_sizes=[0]), r"hidden_sizes=\[0\]"),
        (lambda: MLP(4, 2, dropout=-0.1), r"dropout=-0.1"),
        (lambda: MLP(4, 1), r"num_classes=1"),
        (lambda: MLP(4, 2, label_smoothing=2.0), r"label_smoothing=2.0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]


def test_training_without_an_optimizer_says_so() -> None:
    with pytest.raises(ValueError, match="optimizer=…"):
        LeNet().configure_optimizers()


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_layers_give_the_same_and_keep_their_names() -> None:
    torch.manual_seed(0)
    model = LeNet()
    images = torch.randn(4, 1, 28, 28)
    expected, names = model(images), list(model.state_dict())
    compile_layers(model)
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-4)
    assert list(model.state_dict()) == names
    assert isinstance(model, pl.LightningModule)
