"""The variational autoencoder, held against torch.distributions, closed forms and integrals by quadrature."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from lab.data.digits import Digits
from lab.data.draws import Draws
from lab.data.tensors import Batches, generator
from lab.engine.training.build import build
from lab.models.vae import VAE, binarise
from tests.conftest import SMALL, Compose

FEW = [*SMALL, "model=vae", "model.nll_samples=20", "model.nll_images=100"]


def make(seed: int = 0, scale: float = 1.0, **options: Any) -> VAE:
    """A small VAE with weights of its own seed, `scale` times as large as they come."""
    torch.manual_seed(seed)
    model = VAE(
        **({"image_shape": [1, 4, 4], "pixel_mean_std": [0.0, 1.0], "hidden_sizes": [8], "latent_dim": 3} | options)
    )
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    return model


def images(count: int = 6, side: int = 4) -> Tensor:
    return (torch.rand(count, 1, side, side, generator=generator(1)) < 0.4).float()


def draws(count: int, seed: int) -> Draws:
    return Draws(torch.arange(count), seed)


def every_image_of_four_pixels() -> Tensor:
    return torch.tensor([[i >> k & 1 for k in range(4)] for i in range(16)]).float().view(16, 1, 2, 2)


def exact(model: VAE, x: Tensor) -> Tensor:
    """log p(x) with one latent, integrated on a grid, in double precision."""
    z = torch.linspace(-12, 12, 20_001).double().unsqueeze(1)  # (Z, 1)
    logits = model.double().decoder(z)  # (Z, D)
    model.float()
    log_joint = (
        Bernoulli(logits=logits).log_prob(x.flatten(1).double().unsqueeze(1)).sum(2) + Normal(0, 1).log_prob(z).T
    )
    return (log_joint.logsumexp(1) + math.log(24 / 20_000)).detach()


def joint(model: VAE, x: Tensor, num_samples: int, seed: int) -> tuple[Tensor, Tensor, Normal]:
    """log p(x|z) and the log importance weight, each (B, K), and q(z|x) as a distribution, of seeded draws."""
    mean, log_var = model.encode(x)
    posterior = Normal(mean.unsqueeze(1), log_var.exp().sqrt().unsqueeze(1))  # (B, 1, L)
    noise = draws(len(x), seed).normal(num_samples, model.latent_dim).float()
    z = posterior.loc + posterior.scale * noise
    logits = model.decoder(z.flatten(0, 1)).view(len(x), num_samples, -1)
    log_likelihood = Bernoulli(logits=logits).log_prob(x.flatten(1).unsqueeze(1)).sum(2)
    log_weight = log_likelihood + Normal(0, 1).log_prob(z).sum(2) - posterior.log_prob(z).sum(2)
    return log_likelihood, log_weight, posterior


@pytest.mark.parametrize("num_samples", [1, 3])
def test_kl_and_likelihood_are_those_of_the_distributions(num_samples: int) -> None:
    model, x = make(scale=2), images()
    found = model.bounds(x, num_samples, draws(len(x), 5))
    log_likelihood, _, posterior = joint(model, x, num_samples, 5)
    kl = kl_divergence(posterior, Normal(0, 1)).sum((1, 2))
    torch.testing.assert_close(found["kl"], kl)
    torch.testing.assert_close(found["reconstruction"], -log_likelihood.mean(1))
    torch.testing.assert_close(found["elbo"], log_likelihood.mean(1) - kl)


def test_bound_of_several_samples_is_the_log_of_the_mean_weight() -> None:
    model, x = make(scale=2), images()
    _, log_weight, _ = joint(model, x, 7, 5)
    direct = log_weight.double().exp().mean(1).log().float()
    torch.testing.assert_close(model.bounds(x, 7, draws(len(x), 5))["bound"], direct)


def test_bound_of_one_sample_is_the_elbo_and_a_mean_log_weight_in_expectation() -> None:
    model, x = make(scale=2), images()
    found = model.bounds(x, 1, draws(len(x), 5))
    assert torch.equal(found["bound"], found["elbo"])
    _, log_weight, _ = joint(model, x, 20_000, 6)
    elbo = model.bounds(x, 20_000, draws(len(x), 6))["elbo"]
    torch.testing.assert_close(elbo, log_weight.mean(1), atol=0.05, rtol=0)


def test_beta_weighs_the_divergence() -> None:
    x = images()
    plain, weighed = (make(beta=beta).bounds(x, 1, draws(len(x), 5)) for beta in (1.0, 4.0))
    torch.testing.assert_close(weighed["elbo"], plain["elbo"])
    torch.testing.assert_close(weighed["bound"], plain["elbo"] - 3 * plain["kl"])


@pytest.mark.parametrize("hidden_sizes", [[], [5]])
def test_importance_sampling_finds_the_integral(hidden_sizes: list[int]) -> None:
    model = make(scale=2, image_shape=[1, 2, 2], hidden_sizes=hidden_sizes, latent_dim=1)
    x = every_image_of_four_pixels()
    log_p = exact(model, x)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-6)  # the integral itself is right
    found = model.log_likelihood(x, 20_000, draws(len(x), 2))
    torch.testing.assert_close(found.double(), log_p, atol=0.03, rtol=0)


def test_bounds_are_ordered() -> None:
    model = make(scale=3, image_shape=[1, 2, 2], hidden_sizes=[], latent_dim=1)
    x = every_image_of_four_pixels()
    elbo = model.bounds(x, 4000, draws(len(x), 3))["elbo"]
    many = x.repeat_interleave(1000, 0)  # each image's bound is averaged over a thousand draws
    five, fifty = (model.bounds(many, k, draws(len(many), 4))["bound"].view(16, 1000).mean(1) for k in (5, 50))
    log_p = exact(model, x).float()
    gaps = torch.stack([five - elbo, fifty - five, log_p - fifty])
    assert (gaps.mean(1) > 0.001).all()
    assert (gaps > -0.02).all()  # of each image, but for the noise of the draws


def test_log_likelihood_does_not_hang_on_the_chunks() -> None:
    x = images()
    whole = make(chunk_size=10_000).log_likelihood(x, 50, draws(len(x), 2))
    for chunk_size in (1, 7, 50, 120):
        found = make(chunk_size=chunk_size).log_likelihood(x, 50, draws(len(x), 2))
        torch.testing.assert_close(found, whole, atol=1e-4, rtol=0)


def test_log_likelihood_is_not_rounded_by_mixed_precision() -> None:
    model, x = make(scale=2), images()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.log_likelihood(x, 50, draws(len(x), 2))
    assert torch.equal(mixed, model.log_likelihood(x, 50, draws(len(x), 2)))


def test_log_likelihood_survives_weights_beyond_a_floats_range() -> None:
    model = make(image_shape=[1, 28, 28], scale=30, chunk_size=10)
    found = model.log_likelihood(images(2, 28), 50, draws(2, 2))
    assert found.isfinite().all()
    assert (found < -1000).all()  # exp of it is zero


def test_intensities_are_the_bytes_of_the_data(data_dir: Path) -> None:
    data = Digits(str(data_dir), num_samples=600, num_val=100, batch_size=50)
    data.prepare_data()
    data.setup("fit")
    normalised, _ = next(iter(data.val_dataloader()))
    bytes_, _ = data.load()["val"]
    model = VAE(pixel_mean_std=[data.mean, data.std])
    torch.testing.assert_close(model.intensities(normalised), bytes_ / 255, atol=1e-6, rtol=0)


def test_pixels_are_ones_as_often_as_they_are_bright() -> None:
    intensities = torch.tensor([0.0, 0.1, 0.5, 1.0]).expand(20_000, 4)
    drawn = binarise(intensities, draws(20_000, 0))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), intensities[0], atol=0.015, rtol=0)
    assert torch.equal(drawn[:, 3], torch.ones(20_000))


def test_forward_reconstructs_and_samples_look_like_the_data() -> None:
    model = make(pixel_mean_std=[0.2, 0.4], image_shape=[3, 8, 4])
    x = torch.randn(5, 3, 8, 4)
    logits, mean, log_var = model(x)
    assert (logits.shape, mean.shape, log_var.shape) == ((5, 3, 8, 4), (5, 3), (5, 3))
    torch.testing.assert_close(logits, model(x)[0])
    drawn = model.sample(40, generator(0))
    assert drawn.shape == (40, 3, 8, 4)
    assert drawn.min() > (0 - 0.2) / 0.4
    assert drawn.max() < (1 - 0.2) / 0.4
    torch.testing.assert_close(drawn, model.sample(40, generator(0)))
    z = torch.randn(40, 3, generator=generator(0))
    torch.testing.assert_close(model.intensities(drawn).flatten(1), Bernoulli(logits=model.decoder(z)).mean)


@pytest.mark.parametrize("options", [{}, {"num_samples": 5}, {"network": "conv", "channels": [8, 16]}])
def test_learns_a_batch_by_heart(options: dict[str, Any]) -> None:
    model = make(image_shape=[1, 8, 8], hidden_sizes=[32], **options)
    x = images(8, 8)
    step = SimpleNamespace(total_batch_idx=0)
    model.trainer = SimpleNamespace(fit_loop=step, global_rank=0)  # type: ignore[assignment]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step.total_batch_idx in range(200):
        optimizer.zero_grad()
        found = model.training_step((x, torch.zeros(8)), 0)
        found["loss"].backward()
        optimizer.step()
        losses.append(float(found["loss"].detach()))
    assert losses[0] > 40  # 64 pixels at log 2 = 44.4 nats
    assert losses[-1] < 15  # to tell eight images apart takes 2.1


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_both_networks_take_a_step_and_draw_their_pictures(network: str, cfg: Compose, tmp_path: Path) -> None:
    module, datamodule, trainer = build(
        cfg(*FEW, f"model.network={network}", "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    )
    before = [p.detach().clone() for p in module.parameters()]
    trainer.fit(module, datamodule=datamodule)
    assert all(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert {"train/loss", "train/kl", "train/reconstruction", "val/loss", "val/elbo"} <= set(trainer.callback_metrics)
    [events] = tmp_path.rglob("events.out.tfevents.*")
    pictures = EventAccumulator(str(events)).Reload().Tags()["images"]
    assert {"val/reconstructions", "val/samples", "val/walks"} <= set(pictures)


def test_test_figures_repeat_and_come_back_from_the_checkpoint(cfg: Compose, tmp_path: Path) -> None:
    module, datamodule, trainer = build(cfg(*FEW, "trainer.max_epochs=1", "logger=none"))
    trainer.fit(module, datamodule=datamodule)
    [first] = trainer.test(module, datamodule=datamodule, verbose=False)
    torch.manual_seed(17)
    [again] = trainer.test(module, datamodule=datamodule, verbose=False)
    assert again == first
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    kept = torch.load(path, weights_only=True)
    assert not {"optimizer", "scheduler"} & set(kept["hyper_parameters"])
    [loaded] = trainer.test(VAE.load_from_checkpoint(path, weights_only=True), datamodule=datamodule, verbose=False)
    assert loaded == first
    assert first["test/loss"] == -first["test/elbo"]


def test_nll_counts_the_first_images_alone(cfg: Compose) -> None:
    module, datamodule, trainer = build(
        cfg(*FEW, "model.nll_images=30", "data.eval_batch_size=20", "logger=none", "callbacks=none")
    )
    [metrics] = trainer.test(module, datamodule=datamodule, verbose=False)
    found = []
    batches = iter(datamodule.test_dataloader())
    for i, count in enumerate([20, 10]):
        numbers = torch.arange(20 * i, 20 * i + count)
        x = binarise(module.intensities(next(batches)[0][:count]), Draws(numbers, 0))
        found.append(-module.log_likelihood(x, 20, Draws(numbers, 0, 1)))
    assert metrics["test/nll"] == pytest.approx(float(torch.cat(found).mean()), rel=1e-5)


class Listing(VAE):
    """Notes the images that `test/nll` counts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.counted: list[int] = []

    def log(self, *args: Any, **kwargs: Any) -> None: ...

    def log_likelihood(self, x: Tensor, num_samples: int, draws: Draws) -> Tensor:
        self.counted += (x.flatten(1) @ 2.0 ** torch.arange(16)).int().tolist()
        return torch.zeros(len(x))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("nll_images", [10, 23, None])
def test_nll_counts_the_same_images_whatever_the_number_of_ranks(world_size: int, nll_images: int | None) -> None:
    numbers = torch.arange(50)
    pixels = (numbers.unsqueeze(1) >> torch.arange(16) & 1).float().view(50, 1, 4, 4)  # image i is i in binary
    counted = []
    for rank in range(world_size):
        model = Listing(
            image_shape=[1, 4, 4], pixel_mean_std=[0.0, 1.0], hidden_sizes=[2], latent_dim=1, nll_images=nll_images
        )
        model.trainer = SimpleNamespace(world_size=world_size, global_rank=rank)  # type: ignore[assignment]
        model.on_test_epoch_start()
        for i, batch in enumerate(Batches((pixels,), 4, rank=rank, world_size=world_size)):
            model.test_step(batch, i)
        counted += model.counted
    assert sorted(counted) == list(range(nll_images or 50))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VAE(image_shape=[1, 30, 28], network="conv"), r"image_shape=\[1, 30, 28\]"),
        (lambda: VAE(beta=2.0, num_samples=5), r"num_samples=5, beta=2.0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make: Callable[[], VAE], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
