"""Each way to regularise, by config alone, and the effect that it is for."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lab.engine.training.build import build
from lab.models.mlp import MLP
from tests.conftest import SMALL, Compose

RUN = [
    *SMALL, "model=mlp", "model.batch_norm=false", "data.batch_size=50", "scheduler=none", "optimizer=sgd",
    "optimizer.momentum=0.0", "optimizer.nesterov=false", "optimizer.lr=0.05", "logger=none",
]  # fmt: skip


def fitted(cfg: Compose, *overrides: str, callbacks: tuple[pl.Callback, ...] = ()) -> tuple[Any, pl.Trainer]:
    options = [word for word in ("callbacks=none", "trainer.max_epochs=3") if word.split("=")[0] not in str(overrides)]
    module, data, trainer = build(cfg(*RUN, *options, *overrides), callbacks)
    trainer.fit(module, datamodule=data)
    return module, trainer


def norm(module: pl.LightningModule) -> float:
    return float(sum(p.detach().square().sum() for p in module.parameters() if p.ndim == 2) ** 0.5)


def test_dropout_drops_its_share_in_training_alone() -> None:
    model = MLP(1, 2, hidden_sizes=[20_000], dropout=0.3, batch_norm=False)
    hidden = model.layers[:-1]
    x = torch.ones(1, 1)
    kept = model.eval() and hidden(x)
    model.train()
    dropped = hidden(x)
    alive = kept > 0
    assert (dropped[alive] == 0).float().mean() == pytest.approx(0.3, abs=0.02)
    torch.testing.assert_close(dropped[dropped > 0], (kept / 0.7)[dropped > 0])


def test_weight_decay_shrinks_by_its_formula(cfg: Compose) -> None:
    class NoGradient(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: pl.LightningModule, optimizer: Any) -> None:
            for p in pl_module.parameters():
                if p.grad is not None:
                    p.grad.zero_()

    module, data, trainer = build(
        cfg(*RUN, "optimizer.weight_decay=0.1", "callbacks=none", "trainer.max_epochs=1"), [NoGradient()]
    )
    before = norm(module)
    trainer.fit(module, datamodule=data)
    assert norm(module) == pytest.approx(before * (1 - 0.05 * 0.1) ** trainer.global_step, rel=1e-4)


@pytest.mark.parametrize(
    "key", ["optimizer.weight_decay", *(pytest.param(f"model.{key}", marks=pytest.mark.slow) for key in ("l1", "l2"))]
)
def test_penalties_make_weights_smaller(key: str, cfg: Compose) -> None:
    weight = "0.03" if key == "model.l1" else "0.1"
    assert norm(fitted(cfg, f"{key}={weight}")[0]) < 0.9 * norm(fitted(cfg)[0])


def test_l2_in_the_loss_is_weight_decay_of_plain_descent(cfg: Compose) -> None:
    decayed, _ = fitted(cfg, "optimizer.weight_decay=0.1", "optimizer.decay_biases_and_norms=false")
    penalised, _ = fitted(cfg, "model.l2=0.1")
    for a, b in zip(decayed.parameters(), penalised.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_label_smoothing_makes_a_model_less_sure(cfg: Compose) -> None:
    def confidence(smoothing: float) -> float:
        module, trainer = fitted(cfg, f"model.label_smoothing={smoothing}", "trainer.max_epochs=15")
        images, _ = next(iter(trainer.datamodule.train_dataloader()))  # type: ignore[attr-defined]
        return float(module(images).detach().softmax(1).max(1).values.mean())

    assert confidence(0.3) < confidence(0.0) - 0.1


@pytest.mark.parametrize(("algorithm", "length"), [("norm", lambda g: g.norm()), ("value", lambda g: g.abs().max())])
def test_gradients_are_clipped(algorithm: str, length: Any, cfg: Compose) -> None:
    class Gradients(pl.Callback):
        def __init__(self) -> None:
            self.lengths: list[float] = []

        def on_before_zero_grad(self, trainer: Any, pl_module: pl.LightningModule, optimizer: Any) -> None:
            grads = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
            if grads:
                self.lengths.append(float(length(torch.cat(grads))))

    free, clipped = Gradients(), Gradients()
    fitted(cfg, "trainer.max_epochs=1", callbacks=(free,))
    fitted(
        cfg, "trainer.max_epochs=1", "trainer.gradient_clip_val=0.01", f"trainer.gradient_clip_algorithm={algorithm}",
        callbacks=(clipped,),
    )  # fmt: skip
    assert min(free.lengths) > 0.01
    assert max(clipped.lengths) <= 0.01 * 1.001


def test_early_stopping_ends_when_the_objective_gets_no_better(cfg: Compose) -> None:
    _, trainer = fitted(
        cfg, "callbacks=early_stopping", "callbacks.early_stopping.patience=2", "optimizer.lr=0.0",
        "trainer.max_epochs=20",
    )  # fmt: skip
    assert trainer.current_epoch == 3, "one to begin with, and two without gain"


def test_ema_keeps_the_moving_average_and_tests_it(cfg: Compose, tmp_path: Path) -> None:
    class Weights(pl.Callback):
        def __init__(self) -> None:
            self.average: list[torch.Tensor] = []

        def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
            self.average = []

        def on_train_batch_end(self, trainer: Any, pl_module: pl.LightningModule, *_: Any) -> None:
            now = [p.detach().clone() for p in pl_module.parameters()]
            if not self.average:
                self.average = now  # torch begins the average with the weights after the first step
            else:
                self.average = [0.8 * a + 0.2 * w for a, w in zip(self.average, now, strict=True)]

    watcher = Weights()
    module, _ = fitted(cfg, "callbacks=ema", "callbacks.ema.decay=0.8", callbacks=(watcher,))
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for (name, parameter), average in zip(module.named_parameters(), watcher.average, strict=True):
        torch.testing.assert_close(kept[name], average, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(parameter.detach(), average, atol=1e-5, rtol=1e-4)
