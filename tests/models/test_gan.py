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
from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.config.compose import compose
from lab.engine.training.build import build
from lab.engine.training.metrics import TrainMetrics
from lab.engine.utils.errors import UserError
from lab.models.gan import GAN, discriminator_loss, generator_loss, gradient_penalty_of
from tests.conftest import SMALL, Command, Compose, copy_checkout, run_script

TINY = [
    *SMALL,
    "model=gan",
    "model.generator_channels=4",
    "model.discriminator_channels=4",
    "model.hidden_size=16",
    "model.latent_dim=8",
    "data.batch_size=50",
]
SGD = ["optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.0", "optimizer.nesterov=false", "scheduler=none"]
BARE = [*TINY, "callbacks=none", "objective=null", "logger=none", "trainer.max_epochs=1"]


def make(**options: Any) -> GAN:
    torch.manual_seed(0)
    return GAN(latent_dim=8, generator_channels=4, discriminator_channels=4, hidden_size=16, **options)


def some_images(seed: int) -> Tensor:
    return torch.rand(6, 1, 28, 28, generator=generator(seed)) * 2 - 1


@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "wgan_gp"])
def test_losses_are_their_formulas(loss: str) -> None:
    real, fake = [-2.0, 0.5, 1.5], [-1.5, 0.25, 3.0]  # on both sides of the hinge's margin

    def mean(terms: Any) -> float:
        terms = list(terms)
        return float(sum(terms) / len(terms))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = {
        "non_saturating": (
            -mean(math.log(sigmoid(r)) for r in real) - mean(math.log(1 - sigmoid(f)) for f in fake),
            -mean(math.log(sigmoid(f)) for f in fake),
        ),
        "hinge": (mean(max(0, 1 - r) for r in real) + mean(max(0, 1 + f) for f in fake), -mean(fake)),
        "wgan_gp": (mean(fake) - mean(real), -mean(fake)),
    }[loss]
    assert discriminator_loss(loss, Tensor(real), Tensor(fake)).item() == pytest.approx(expected[0], rel=1e-5)
    assert generator_loss(loss, Tensor(fake)).item() == pytest.approx(expected[1], rel=1e-5)


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
    z = torch.randn(6, 8)
    model = make(loss="wgan_gp", gradient_penalty=7.0)
    weighted = model.loss_d(real, z, share)
    model.gradient_penalty = 0.0
    penalty = gradient_penalty_of(model.discriminator, real, model.generator(z).detach(), share)
    torch.testing.assert_close(weighted - model.loss_d(real, z, share), 7 * penalty)


def test_weights_start_as_dcgans_do() -> None:
    model = GAN()
    for name, weight in model.named_parameters():
        if name.startswith("ema."):
            continue
        if weight.ndim >= 2:
            assert weight.std().item() == pytest.approx(0.02, rel=0.15), name
        elif name.endswith("bias"):
            assert not weight.any(), name
        else:
            assert (weight.mean().item(), weight.std().item()) == pytest.approx((1, 0.02), rel=0.3), name


def test_spectral_norm_bounds_the_largest_singular_value() -> None:
    model = make(spectral_norm=True)
    assert not any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in model.discriminator)
    for _ in range(50):  # each forward pass comes nearer, by an iteration of the power method
        model.discriminator(some_images(1))
    weights: list[Any] = [layer.weight for layer in model.discriminator if hasattr(layer, "weight")]
    assert len(weights) == 4
    for weight in weights:
        assert torch.linalg.svdvals(weight.flatten(1))[0].item() == pytest.approx(1, abs=0.01)
    [x, y] = model.discriminator(torch.stack([some_images(1)[0], some_images(2)[0]])).tolist()
    distance = (some_images(1)[0] - some_images(2)[0]).norm().item()
    # An image element is in at most four of the 4x4 windows of a convolution: its norm is at most twice its matrix's
    assert abs(x - y) <= 2 * 2 * 1.01**4 * distance


class Recorder(pl.Callback):
    """Keeps the players as they are after each batch, and what the generator made images from."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []
        self.latents: list[Tensor] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.first = deepcopy(pl_module)
        pl_module.generator.register_forward_pre_hook(lambda module, args: self.latents.append(args[0]))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.kept.append(deepcopy(pl_module.state_dict()))

    def moved(self, player: str) -> list[int]:
        """The batches, counted from 1, after which the weights of a player were others."""
        states = [self.first.state_dict(), *self.kept]
        names = [name for name, _ in getattr(self.first, player).named_parameters(prefix=player)]
        return [i for i in range(1, len(states)) if any(not states[i][n].equal(states[i - 1][n]) for n in names)]


def fit(config: Any) -> tuple[Any, Recorder, pl.Trainer]:
    recorder = Recorder()
    module, data, trainer = build(config, [recorder])
    trainer.fit(module, datamodule=data)
    return module, recorder, trainer


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_follows_its_recursion(accumulate: int, cfg: Compose) -> None:
    words = [*BARE, "model.ema_decay=0.8", f"trainer.accumulate_grad_batches={accumulate}"]
    module, recorder, _ = fit(cfg(*words))
    kept = recorder.kept[accumulate - 1 :: accumulate]
    for name, value in module.ema.module.state_dict().items():
        if not value.is_floating_point():
            continue
        average = kept[0][f"generator.{name}"]
        for weights in kept[1:]:
            average = 0.8 * average + 0.2 * weights[f"generator.{name}"]
        torch.testing.assert_close(value, average)
    assert not torch.equal(module.ema.module[0].weight, module.generator[0].weight)


@pytest.mark.parametrize(
    ("n_critic", "accumulate"),
    [(2, 2), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1, 1), (3, 1), (1, 4)))],
)
def test_the_generator_steps_once_for_each_n_critic_steps_of_the_discriminator(
    n_critic: int, accumulate: int, cfg: Compose
) -> None:
    words = [f"model.n_critic={n_critic}", f"trainer.accumulate_grad_batches={accumulate}"]
    _, recorder, trainer = fit(cfg(*BARE, *words))
    steps = [batch for batch in range(1, 11) if batch % accumulate == 0 or batch == 10]  # the rest of an epoch, too
    assert recorder.moved("discriminator") == steps
    assert recorder.moved("generator") == steps[n_critic - 1 :: n_critic]
    assert trainer.global_step == len(steps)
    assert len({tuple(z.flatten().tolist()) for z in recorder.latents}) == len(recorder.latents), "latents of its own"
    batches = [step - before for before, step in zip([0, *steps], steps, strict=False)]
    assert len(recorder.latents) == 10 + sum(batches[n_critic - 1 :: n_critic])


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_step_is_one_of_each_player_down_its_own_loss(accumulate: int, cfg: Compose) -> None:
    double = ["trainer.precision=64-true", f"trainer.limit_train_batches={accumulate}", "model.loss=hinge"]
    words = [*BARE, *SGD, *double, f"trainer.accumulate_grad_batches={accumulate}", "model.l2=0.1"]
    _, data, _ = build(cfg(*words))
    data.setup("fit")
    batches = iter(data.train_dataloader())
    real = [(next(batches)[0].double() * data.std + data.mean) * 2 - 1 for _ in range(accumulate)]
    module, recorder, _ = fit(cfg(*words))
    of_d, of_g = recorder.latents[:accumulate], recorder.latents[accumulate:]
    assert len(of_g) == accumulate
    game = recorder.first.double()

    def step(player: nn.Module, losses: list[Tensor]) -> None:
        weights = list(player.parameters())
        penalty = 0.05 * sum(w.square().sum() for w in weights if w.ndim >= 2)
        slopes = torch.autograd.grad(sum(losses) / len(losses) + penalty, weights)  # type: ignore[arg-type]
        for weight, slope in zip(weights, slopes, strict=True):
            weight.data -= 0.1 * slope

    step(game.discriminator, [game.loss_d(x, z, z) for x, z in zip(real, of_d, strict=True)])
    step(game.generator, [game.loss_g(z) for z in of_g])  # against the discriminator that has just stepped
    for player in ("discriminator", "generator"):
        expected = dict(getattr(game, player).named_parameters())
        for name, weight in getattr(module, player).named_parameters():
            torch.testing.assert_close(weight, expected[name], msg=f"{player}.{name}")
    assert all(p.requires_grad for player in (module.generator, module.discriminator) for p in player.parameters())


def test_each_players_gradient_is_clipped_by_itself(cfg: Compose) -> None:
    words = ["trainer.gradient_clip_val=1e-3", "trainer.limit_train_batches=2", "trainer.accumulate_grad_batches=2"]
    module, recorder, trainer = fit(cfg(*BARE, *SGD, *words, "trainer.precision=64-true"))
    assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches) == (1e-3, 2)
    first = recorder.first.double()
    for player in ("discriminator", "generator"):
        pairs = zip(getattr(module, player).parameters(), getattr(first, player).parameters(), strict=True)
        moved = torch.cat([(now - then).flatten() for now, then in pairs])
        assert moved.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-4), player


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
            # The last bias may have no gradient: it is in all scores alike
            assert name == "discriminator.9.bias" or not torch.equal(value, before[name]), name
    assert trainer.test(module, datamodule=data, verbose=False) == [{}], "callbacks=none measures nothing"


def test_a_schedule_moves_once_a_batch(cfg: Compose) -> None:
    _, _, trainer = fit(cfg(*BARE, "scheduler.scheduler.min_lr_ratio=0.25", "optimizer.lr=0.004", "model.n_critic=3"))
    assert rates(trainer) == pytest.approx([0.001, 0.001])


def rates(trainer: pl.Trainer) -> list[float]:
    return [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]


def test_players_have_rates_of_their_own(cfg: Compose) -> None:
    own = ["optimizer@model.discriminator_optimizer=sgd", "model.discriminator_optimizer.lr=0.1", "optimizer.lr=0.01"]
    module, _, trainer = fit(cfg(*BARE, *own, "scheduler=onecycle"))
    assert [type(optimizer).__name__ for optimizer in trainer.optimizers] == ["Adam", "SGD"]
    assert trainer.optimizers[0].param_groups[0]["betas"][1] == 0.99
    peaks = [optimizer.param_groups[0]["max_lr"] for optimizer in trainer.optimizers]
    assert peaks == [0.01, 0.1], "of onecycle"
    assert "discriminator_optimizer" not in module.hparams
    _, _, trainer = fit(cfg(*BARE, "scheduler=none", "optimizer=sgd", "optimizer.lr=0.3"))
    assert rates(trainer) == [0.3, 0.3]


def test_plateau_looks_at_what_was_logged(cfg: Compose) -> None:
    more = ["scheduler=plateau", "scheduler.scheduler.patience=0"]
    words = [*BARE, *more, "scheduler.scheduler.mode=min", "trainer.max_epochs=3", "trainer.limit_train_batches=1"]
    with pytest.raises(UserError, match=r"scheduler\.monitor=train/loss_g was not logged"):
        fit(cfg(*words, "scheduler.monitor=train/loss_g"))
    logs = pl.callbacks.LambdaCallback(on_train_epoch_end=lambda _, module: module.log("worse", module.current_epoch))
    module, data, trainer = build(cfg(*words, "scheduler.monitor=worse", "optimizer.lr=0.1"), [logs])
    trainer.fit(module, datamodule=data)
    assert rates(trainer) == pytest.approx([1e-3, 1e-3]), "after two epochs that were worse"


def test_lbfgs_is_refused(cfg: Compose) -> None:
    with pytest.raises(UserError, match="optimizer=gan_adam"):
        fit(cfg(*BARE, "optimizer=lbfgs", "scheduler=none"))


def test_the_model_chooses_its_optimizer_and_the_command_line_another() -> None:
    def optimizer(*words: str) -> tuple[str, float, Any]:
        chosen = compose(words).optimizer
        return chosen._target_.rpartition(".")[2], chosen.lr, chosen.get("betas")

    assert optimizer("model=gan") == optimizer("experiment=mnist_gan") == ("Adam", 1e-3, [0.5, 0.99])
    assert optimizer("experiment=mnist_gan", "optimizer.lr=2e-4") == ("Adam", 2e-4, [0.5, 0.99])
    assert optimizer("model=gan", "optimizer=sgd") == ("SGD", 0.1, None)
    assert optimizer("experiment=mnist_gan", "optimizer=sgd", "optimizer.lr=0.2") == ("SGD", 0.2, None)
    assert optimizer("model=lenet") == ("AdamW", 5e-3, [0.9, 0.999])
    assert optimizer("model=gpt", "data=text") == optimizer("experiment=text_gpt") == ("AdamW", 3e-3, [0.9, 0.999])
    assert compose(["model=gan"]).scheduler.scheduler._target_ == "lab.optim.schedulers.cosine"


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


EVEN = '''
"""A GAN without batch norm."""

from torch import nn

from lab.models.gan import GAN


class Even(GAN):
    def __init__(self, **gan):
        super().__init__(**gan)
        for i, layer in enumerate(self.generator):
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                self.generator[i] = nn.Identity()
        for p in self.parameters():
            p.data *= 3  # without batch norm the gradients would all but vanish
'''


@pytest.mark.slow
def test_two_ranks_play_the_game_of_one(tmp_path: Path, data_dir: Path) -> None:
    """Under accumulation and several steps of the critic, to rounding in double precision."""
    checkout = copy_checkout(tmp_path / "checkout")
    (checkout / "src" / "even").mkdir()
    (checkout / "src" / "even" / "__init__.py").write_text(EVEN)
    more = ["model._target_=even.Even", "model.ema_decay=0", "model.loss=wgan_gp", "model.n_critic=2"]
    trainer = ["trainer.precision=64-true", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=1"]
    paths = [f"paths.data_dir={data_dir}"]
    words = [
        *TINY,
        *more,
        *SGD,
        "optimizer.lr=0.01",
        *trainer,
        *paths,
        "callbacks.generative_metrics=null",
        "objective=null",
        "test=false",
    ]
    found = []
    for kind in ("cpu", "ddp_cpu"):
        done = run_script(
            str(checkout / "src" / "train.py"),
            *(*words, f"trainer={kind}", f"paths.log_dir={tmp_path}/{kind}"),
            timeout=600,  # it makes the schema of its own checkout, too
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Warning" not in done.stdout + done.stderr
        [path] = tmp_path.glob(f"{kind}/runs/*/*/checkpoints/last.ckpt")
        checkpoint = read_checkpoint(path)
        assert checkpoint["global_step"] == 5
        found.append(checkpoint["state_dict"])
    first = make(loss="wgan_gp", ema_decay=0).state_dict()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-14, msg=name)
        assert value.ndim < 2 or (value - 3 * first[name].double()).abs().max() > 1e-8, f"{name} has not moved"
