"""The game's losses, its step, its average and its samples, each against something worked out by hand."""

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lab.data.tensors import generator
from lab.engine.training.metrics import TrainMetrics
from lab.engine.training.train import build
from lab.models.gan import GAN, gradient_penalty_of
from tests.conftest import SMALL, Command, Compose

TINY = [
    *SMALL,
    "model=gan",
    "model.generator_channels=4",
    "model.discriminator_channels=4",
    "model.hidden_size=16",
    "model.latent_dim=8",
    "data.batch_size=50",
]
BARE = [*TINY, "callbacks=none", "logger=none", "trainer.max_epochs=1"]


def make(**options: Any) -> GAN:
    torch.manual_seed(0)
    return GAN(latent_dim=8, generator_channels=4, discriminator_channels=4, hidden_size=16, **options)


def some_images(seed: int) -> Tensor:
    return torch.rand(6, 1, 28, 28, generator=generator(seed)) * 2 - 1


@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "wgan_gp"])
def test_losses_are_their_formulas(loss: Any) -> None:
    model = make(loss=loss, gradient_penalty=0.0)
    real, fake = some_images(1), some_images(2)
    head: Any = model.discriminator[-2]
    head.weight.data *= 10  # scores on both sides of the hinge's margin
    on_real, on_fake = (model.discriminator(x).detach().tolist() for x in (real, fake))
    found = {name: value.item() for name, value in model.losses(real, fake).items()}

    def mean(terms: Any) -> float:
        terms = list(terms)
        return float(sum(terms) / len(terms))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = {
        "non_saturating": (
            -mean(math.log(sigmoid(r)) for r in on_real) - mean(math.log(1 - sigmoid(f)) for f in on_fake),
            -mean(math.log(sigmoid(f)) for f in on_fake),
        ),
        "hinge": (
            mean(max(0, 1 - r) for r in on_real) + mean(max(0, 1 + f) for f in on_fake),
            -mean(on_fake),
        ),
        "wgan_gp": (mean(on_fake) - mean(on_real), -mean(on_fake)),
    }[loss]
    assert found["loss_d"] == pytest.approx(expected[0], rel=1e-5)
    assert found["loss_g"] == pytest.approx(expected[1], rel=1e-5)


@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "wgan_gp"])
def test_each_loss_moves_its_own_player_alone(loss: Any) -> None:
    model = make(loss=loss)
    losses = model.losses(some_images(1), model.generator(torch.randn(6, 8)))
    players = {"loss_g": list(model.generator.parameters()), "loss_d": list(model.discriminator.parameters())}
    for name, other in (("loss_g", "loss_d"), ("loss_d", "loss_g")):
        own = torch.autograd.grad(losses[name], players[name], retain_graph=True)
        assert any(gradient.abs().sum() > 0 for gradient in own)
        theirs = torch.autograd.grad(losses[name], players[other], retain_graph=True, allow_unused=True)
        assert theirs == (None,) * len(players[other])
    assert all(p.requires_grad for p in model.discriminator.parameters())


@pytest.mark.parametrize("slope", [1.0, 0.0, 3.0])
def test_the_penalty_is_the_square_of_what_the_slope_is_off_one(slope: float) -> None:
    linear = nn.Linear(784, 1)
    critic = nn.Sequential(nn.Flatten(), linear)
    linear.weight.data.fill_(slope / 28)  # 784 of them: the norm is `slope`
    penalty = gradient_penalty_of(critic, some_images(1), some_images(2), torch.rand(6, 1, 1, 1))
    assert penalty.item() == pytest.approx((slope - 1) ** 2, abs=1e-5)


def test_the_penalty_is_taken_between_real_and_fake() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square().flatten(1).sum(1) / 2  # its slope is |x|

    real, fake, share = some_images(1), some_images(2), torch.rand(6, 1, 1, 1)
    between = (share * real + (1 - share) * fake).flatten(1)
    expected = (between.norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(gradient_penalty_of(Square(), real, fake, share).detach(), expected)
    weighted = make(loss="wgan_gp", gradient_penalty=7.0).losses(real, fake, generator(5))["loss_d"]
    plain = make(loss="wgan_gp", gradient_penalty=0.0).losses(real, fake, generator(5))["loss_d"]
    drawn = torch.rand(6, 1, 1, 1, generator=generator(5))
    penalty = gradient_penalty_of(make(loss="wgan_gp").discriminator, real, fake, drawn)
    torch.testing.assert_close(weighted - plain, 7 * penalty)


class Recorder(pl.Callback):
    """Keeps the generator as it is after each optimizer step, and the latents of each batch."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []
        self.latents: list[Tensor] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.generator.register_forward_pre_hook(lambda module, args: self.latents.append(args[0]))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step > len(self.kept):
            self.kept.append(deepcopy(pl_module.generator.state_dict()))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_follows_its_recursion(accumulate: int, cfg: Compose) -> None:
    recorder = Recorder()
    words = [*BARE, "model.ema_decay=0.8", f"trainer.accumulate_grad_batches={accumulate}"]
    module, data, trainer = build(cfg(*words), [recorder])
    trainer.fit(module, datamodule=data)
    assert len(recorder.kept) == 10 / accumulate
    assert len({tuple(z.flatten().tolist()) for z in recorder.latents}) == 10, "each batch has latents of its own"
    for name, value in module.ema.module.state_dict().items():
        if not value.is_floating_point():
            continue
        average = recorder.kept[0][name]
        for weights in recorder.kept[1:]:
            average = 0.8 * average + 0.2 * weights[name]
        torch.testing.assert_close(value, average)
    assert not torch.equal(module.ema.module[0].weight, module.generator[0].weight)


def test_a_step_is_one_of_each_player_down_its_own_loss(cfg: Compose) -> None:
    sgd = ["optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.0", "optimizer.nesterov=false", "scheduler=none"]
    module, data, trainer = build(cfg(*BARE, *sgd, "trainer.limit_train_batches=1"))
    data.setup("fit")
    [images, _] = next(iter(data.train_dataloader()))
    before = deepcopy(module)
    trainer.fit(module, datamodule=data)
    draw = generator(0, 0, 0)  # seed, step, rank
    real = (images * data.std + data.mean) * 2 - 1
    losses = before.losses(real, before.generator(torch.randn(50, 8, generator=draw)), draw)
    for loss, player in (("loss_d", "discriminator"), ("loss_g", "generator")):
        was = dict(getattr(before, player).named_parameters())
        slopes = torch.autograd.grad(losses[loss], list(was.values()), retain_graph=True)
        for (name, now), slope in zip(getattr(module, player).named_parameters(), slopes, strict=True):
            torch.testing.assert_close(now, was[name] - 0.1 * slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "wgan_gp"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_every_loss_trains(loss: str, precision: str, cfg: Compose) -> None:
    module, data, trainer = build(cfg(*BARE, f"model.loss={loss}", f"trainer.precision={precision}"), [TrainMetrics()])
    before = deepcopy(module.state_dict())
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 10, "a batch is one step, whatever the number of players"
    assert math.isfinite(trainer.callback_metrics["train/loss_d"])
    assert math.isfinite(trainer.callback_metrics["train/loss_g"])
    for name, value in module.state_dict().items():
        if value.is_floating_point() and "running" not in name:
            assert value.isfinite().all()
            assert not torch.equal(value, before[name]), name
    assert trainer.test(module, datamodule=data, verbose=False) == [{}], "callbacks=none measures nothing"


def test_a_schedule_moves_once_a_batch(cfg: Compose) -> None:
    module, data, trainer = build(
        cfg(*BARE, "scheduler=cosine", "scheduler.scheduler.min_lr_ratio=0.25", "optimizer.lr=0.004")
    )
    trainer.fit(module, datamodule=data)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001)


def test_samples_come_from_the_average_in_the_datas_own_scale() -> None:
    model = make(pixel_mean_std=[0.2, 0.4]).train()
    assert model.ema is not None
    images = model.sample(5, generator(3))
    assert images.shape == (5, 1, 28, 28)
    assert model.generator.training
    assert model.ema.training
    z = torch.randn(5, 8, generator=generator(3))
    expected = (model.ema.eval()(z) / 2 + 0.5 - 0.2) / 0.4
    torch.testing.assert_close(images, expected.detach())
    for p in model.generator.parameters():
        p.data.zero_()
    torch.testing.assert_close(model.sample(5, generator(3)), images)
    assert make(ema_decay=0).ema is None
    torch.manual_seed(1)
    first = model.sample(3)
    torch.manual_seed(1)
    assert torch.equal(model.sample(3), first)


def test_a_resumed_run_draws_what_the_straight_one_does(cfg: Compose, tmp_path: Path) -> None:
    def fit(name: str, epochs: int, resume: Path | None = None) -> dict[str, Tensor]:
        more = [
            "scheduler=none",
            "model.loss=wgan_gp",
            "logger=none",
            "callbacks.generative_metrics=null",
            "objective=null",
        ]
        there = f"paths.run_dir={tmp_path}/{name}"
        module, data, trainer = build(cfg(*TINY, *more, there, f"trainer.max_epochs={epochs}"))
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        return module.state_dict()

    straight = fit("straight", 2)
    fit("broken", 1)
    resumed = fit("broken", 2, tmp_path / "broken" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(value, straight[name]) for name, value in resumed.items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_shape": [1, 27, 28]}, r"image_shape=\[1, 27, 28\]"),
        ({"image_shape": [1, 28, 30]}, r"multiples of 4"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GAN(**options)


@pytest.mark.slow
def test_two_processes_keep_one_game(train_command: Command, tmp_path: Path) -> None:
    more = [
        "trainer=ddp_cpu",
        "trainer.max_epochs=2",
        "model.loss=wgan_gp",
        "callbacks.generative_metrics.num_val_samples=100",
    ]
    done = train_command(*TINY, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    [path] = tmp_path.glob("logs/runs/*/*/metrics.json")
    metrics = json.loads(path.read_text())
    assert {"train/loss_d", "train/loss_g", "test/frechet", "test/modes"} <= set(metrics)
    best = path.parent / "checkpoints" / "best.ckpt"
    assert GAN.load_from_checkpoint(best).sample(2).shape == (2, 1, 28, 28)
