"""Gradients under every precision: accumulated and clipped, each step is that of the whole batch within rounding."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lab.engine.training.build import build
from tests.conftest import Compose

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
# The largest relative error of one rounding
ROUNDING = {
    "64-true": 2.0**-53,
    "32-true": 2.0**-24,
    "bf16-mixed": 2.0**-9,
    "bf16-true": 2.0**-9,
    "16-mixed": 2.0**-12,
    "16-true": 2.0**-12,
}
PRECISIONS = [pytest.param(name, marks=GPU if name.startswith("16-") else []) for name in ROUNDING]
ROUNDINGS = 50  # that the errors of a gradient may add up to

SGD = [
    "optimizer=sgd",
    "optimizer.lr=1e-9",
    "optimizer.momentum=0.0",
    "optimizer.nesterov=false",
    "optimizer.fused=false",
    "scheduler=none",
]
BARE = [*SGD, "callbacks=none", "logger=none", "objective=null", "trainer.max_epochs=1", "trainer.limit_val_batches=0"]
MODELS = {
    "lenet": ["data=digits", "data.num_samples=600", "data.num_val=100"],
    "gpt": ["data=text", "data.num_tokens=20000"],
    "gan": ["data=digits", "data.num_samples=600", "data.num_val=100", "model.loss=wgan_gp"],
}
BATCH = 32


class Gradients(pl.Callback):
    """Keeps the gradients that each optimizer took its step with, of all its parameters in one vector."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self.keep)

    def keep(self, optimizer: Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.kept.append(torch.cat([gradient.detach().double().flatten().cpu() for gradient in gradients]))


def step(cfg: Compose, model: str, precision: str, batches: int, clip: float | None = None) -> list[Tensor]:
    """Returns the gradients of one step with the same samples in so many batches, of each optimizer."""
    device = "gpu" if precision.startswith("16-") else "cpu"
    words = [f"model={model}", *MODELS[model], *BARE, f"trainer={device}", f"trainer.precision={precision}"]
    words += [f"trainer.limit_train_batches={batches}", f"trainer.accumulate_grad_batches={batches}"]
    words += [f"data.batch_size={BATCH // batches}", f"trainer.gradient_clip_val={clip or 'null'}"]
    gradients = Gradients()
    module, data, trainer = build(cfg(*words), callbacks=[gradients])
    if model == "gan":
        share_latents(module, trainer)
    trainer.fit(module, datamodule=data)
    return gradients.kept


def share_latents(gan: Any, trainer: pl.Trainer) -> None:
    """Gives a GAN the latents of one table, and takes its batch norms out, to which half a batch is another batch."""
    for i, layer in enumerate(gan.generator):
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            gan.generator[i] = nn.Identity()
    gan.ema = None
    table = torch.randn(BATCH, gan.latent_dim, generator=torch.Generator().manual_seed(0))

    def draw(n: int, *key: int) -> tuple[Tensor, Tensor]:
        number = key[0] - 1 if key else trainer.fit_loop.batch_idx
        z, share = table[number * n :][:n], torch.full((n, 1, 1, 1), 0.5)
        return z.to(gan.device, gan.dtype), share.to(gan.device, gan.dtype)

    gan.draw = draw


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_a_step_in_two_batches_is_that_of_the_whole_and_is_clipped(model: str, precision: str, cfg: Compose) -> None:
    exact, whole, halves = (
        step(cfg, model, name, batches) for name, batches in (("64-true", 1), (precision, 1), (precision, 2))
    )
    enough = ROUNDINGS * ROUNDING[precision] + 1e-8  # by which a step of the discriminator moves the generator's
    assert len(exact) == len(whole) == len(halves) == (2 if model == "gan" else 1)
    for found, rounded, expected in zip(halves, whole, exact, strict=True):
        assert error(rounded, expected) <= enough
        assert error(found, rounded) <= enough
    limit = 0.5 * min(float(gradient.norm()) for gradient in exact)
    for found, free in zip(step(cfg, model, precision, 2, limit), halves, strict=True):
        assert found.norm() <= limit * (1 + enough)
        assert error(found, free * limit / (free.norm() + 1e-6)) <= enough  # as torch.nn.utils.clip_grad_norm_ has it
