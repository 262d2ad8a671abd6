"""Defines a generative adversarial network: two convolutional networks, generator and discriminator.

Shapes: B images in a batch, of C channels, height H and width W; Z numbers in a latent.
"""

from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.optim import LBFGS
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.utils import make_grid

from lab.data.tensors import Batch, generator
from lab.engine.utils.errors import UserError
from lab.engine.utils.export_spec import ExportSpec
from lab.engine.utils.ranges import ImageShape, NonNegativeFloat, PixelMeanStd, PositiveInt, Probability
from lab.models.tasks.manual import ManualTask
from lab.models.tasks.plots import log_image
from lab.optim.optimizers import OptimizerFactory, configure


def discriminator_loss(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """Returns the discriminator's loss, from its scores (B) of real images and of made-up ones."""
    match loss:
        case "non_saturating":  # cross-entropy; Goodfellow et al. 2014, section 3
            return F.softplus(-real).mean() + F.softplus(fake).mean()
        case "hinge":  # without gain beyond a margin of one; Miyato et al. 2018, equation 16
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        case _:  # minus its estimate of the Wasserstein distance; Gulrajani et al. 2017, equation 2
            return fake.mean() - real.mean()


def generator_loss(loss: str, fake: Tensor) -> Tensor:
    """Returns the generator's loss, from the discriminator's scores (B) of made-up images."""
    return F.softplus(-fake).mean() if loss == "non_saturating" else -fake.mean()


def gradient_penalty_of(critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Returns the mean of (|gradient| - 1)^2 at `share` (B, 1, 1, 1) of the way from `fake` to `real` (B, C, H, W).

    Without autocast: gradients of squared gradients leave the range of half precision. Gulrajani et al. 2017,
    equation 3.
    """
    with torch.autocast(real.device.type, enabled=False):
        between = torch.lerp(fake.to(real), real, share).requires_grad_()
        # Outside of `torch.compile`, which cannot differentiate a gradient
        [slope] = torch.autograd.grad(critic.forward(between).sum(), between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()


class GAN(ManualTask):
    """Learns to generate images like those of the data: a generator makes them, a discriminator tells them apart.

    Both networks are DCGAN's, two strided convolutions each, and a hidden layer, so that the players see an image as a
    whole; weights start from a normal distribution of standard deviation 0.02. The discriminator's batch norm sees real
    and made-up images apart. There is none with wgan_gp, whose penalty is on each image's own slope, nor with spectral
    norm.

    The players take turns: `n_critic` steps of the discriminator, each with new images, then one of the generator
    against it. Each draws latents of its own. Where gradients are accumulated, each batch has other latents, and the
    generator's step has as many batches as the discriminator's. The discriminator's steps are those that
    `trainer.max_steps` and the curves count. The schedule spans the fit for each.

    Batches are images (B, C, H, W) first; what follows (labels) is not looked at.

    Args:
        image_shape: (channels, height, width); height and width are multiples of 4.
        pixel_mean_std: mean and standard deviation that the data normalises pixels in [0, 1] by; the players' own range
            is tanh's, [-1, 1].
        latent_dim: Z, standard normal numbers that the generator makes an image from.
        generator_channels: feature maps of the generator at half the resolution; twice as many at a quarter.
        discriminator_channels: those of the discriminator.
        hidden_size: units of the layer between the feature maps and the latents, or the score.
        loss: non_saturating, hinge or wgan_gp.
        gradient_penalty: weight of wgan_gp's penalty on slopes other than one.
        n_critic: steps of the discriminator for each of the generator.
        spectral_norm: divides the discriminator's weights by their largest singular values, in place of batch norm.
        ema_decay: share of the averaged generator kept at each of its steps; 0 for no average. `sample` draws from the
            average (Yazici et al. 2019).
        discriminator_optimizer: factory, called with the discriminator's parameters; None for the generator's.
        **task: see `Task`; `optimizer` is the generator's.

    Raises:
        UserError: for sides that are no multiples of 4, and for L-BFGS.

    Source: Goodfellow et al., Generative Adversarial Nets, 2014; Radford, Metz and Chintala, Unsupervised
    Representation Learning with Deep Convolutional GANs, 2016; Lim and Ye, Geometric GAN, 2017; Miyato et al., Spectral
    Normalization for GANs, 2018; Gulrajani et al., Improved Training of Wasserstein GANs, 2017; Yazici et al., The
    Unusual Effectiveness of Averaging in GAN Training, 2019.
    """

    factories = (*ManualTask.factories, "discriminator_optimizer")
    latents: Tensor

    def __init__(
        self,
        image_shape: ImageShape = (1, 28, 28),
        pixel_mean_std: PixelMeanStd = (0.15, 0.319),
        latent_dim: PositiveInt = 64,
        generator_channels: PositiveInt = 32,
        discriminator_channels: PositiveInt = 16,
        hidden_size: PositiveInt = 256,
        loss: Literal["non_saturating", "hinge", "wgan_gp"] = "non_saturating",
        gradient_penalty: NonNegativeFloat = 10.0,
        n_critic: PositiveInt = 1,
        spectral_norm: bool = False,
        ema_decay: Probability = 0.999,
        discriminator_optimizer: OptimizerFactory | None = None,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        depth, height, width = image_shape
        if height % 4 or width % 4:
            raise UserError(f"image_shape={list(image_shape)}: a GAN needs height and width that are multiples of 4")
        self.mean, self.std = pixel_mean_std
        self.latent_dim = latent_dim
        self.loss = loss
        self.gradient_penalty = gradient_penalty
        self.n_critic = n_critic
        self.discriminator_optimizer = discriminator_optimizer

        quarter, area = (height // 4, width // 4), height // 4 * width // 4
        g, d = generator_channels, discriminator_channels
        self.generator = nn.Sequential(
            nn.Linear(latent_dim, hidden_size, bias=False),  # (B, Z) -> (B, hidden_size)
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, 2 * g * area, bias=False),
            nn.Unflatten(1, (2 * g, *quarter)),  # -> (B, 2 g, H/4, W/4)
            nn.BatchNorm2d(2 * g),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * g, g, 4, stride=2, padding=1, bias=False),  # -> (B, g, H/2, W/2)
            nn.BatchNorm2d(g),
            nn.ReLU(),
            nn.ConvTranspose2d(g, depth, 4, stride=2, padding=1),  # -> (B, C, H, W)
            nn.Tanh(),
        )
        norm = loss != "wgan_gp" and not spectral_norm
        self.discriminator = nn.Sequential(
            nn.Conv2d(depth, d, 4, stride=2, padding=1),  # (B, C, H, W) -> (B, d, H/2, W/2)
            nn.LeakyReLU(0.2),
            nn.Conv2d(d, 2 * d, 4, stride=2, padding=1, bias=not norm),  # -> (B, 2 d, H/4, W/4)
            nn.BatchNorm2d(2 * d, track_running_stats=False) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * d * area, hidden_size, bias=not norm),  # -> (B, hidden_size)
            nn.BatchNorm1d(hidden_size, track_running_stats=False) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_size, 1),
            nn.Flatten(0),  # -> (B)
        )
        self.apply(_init_weights)
        if spectral_norm:
            for layer in self.discriminator:
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    parametrizations.spectral_norm(layer)
        self.ema: AveragedModel | None = None
        if ema_decay:
            # Statistics of the batch norms are averaged too: those of the newest weights would not fit the average.
            average: Any = get_ema_multi_avg_fn(ema_decay)
            self.ema = AveragedModel(deepcopy(self.generator), multi_avg_fn=average, use_buffers=True)
            self.ema.requires_grad_(False)
        latents = torch.randn(64, latent_dim, generator=generator(0))
        self.register_buffer("latents", latents, persistent=False)  # what the pictures of every epoch are made from

    def forward(self, z: Tensor) -> Tensor:
        return self._outward(self.generator(z))  # (B, Z) -> (B, C, H, W)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws `n` images (n, C, H, W), normalised as the data is, from the averaged generator.

        Args:
            n: how many.
            generator: of the latents, on the CPU; None for torch's own.
        """
        return self._draw(torch.randn(n, self.latent_dim, generator=generator).to(self.device, self.dtype))  # type: ignore[arg-type]

    def sample_images(self, n: int, seed: int = 0) -> Tensor:
        """Draws `n` images (n, C, H, W), pixels in [0, 1]."""
        return (self.sample(n, generator(seed)) * self.std + self.mean).clamp(0, 1)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        raise UserError("a batch of data is nothing for the run's model GAN; it takes\n  num_samples=N")

    def export_wrapper(self, dims: dict[str, Any]) -> ExportSpec:
        averaged = " averaged" if self.ema is not None else ""
        description = f"images, pixels in [0, 1], of the{averaged} generator from standard normal latents"
        network = self.generator if self.ema is None else self.ema.module
        return ExportSpec(
            network, description, ("images",), ("latents",), (self.latent_dim,), forward=lambda z: (network(z) + 1) / 2
        )

    def make_optimizers(self) -> Any:
        of_discriminator = self.discriminator_optimizer or self.optimizer
        players = [
            configure(self, self.optimizer, self.scheduler, "generator", self.n_critic),
            configure(self, of_discriminator, self.scheduler, "discriminator"),
        ]
        if any(isinstance(player["optimizer"], LBFGS) for player in players):
            raise UserError("L-BFGS searches along a loss, and a game has none: use optimizer=gan_adam, adam or sgd")
        return players

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        for_generator, for_discriminator = self.optimizers()  # type: ignore[misc, attr-defined]
        real = self._inward(batch[0])
        is_step = self.completes_step(batch_idx)

        with for_discriminator.toggle_model(sync_grad=is_step):
            loss_d = self.loss_d(real, *self.draw(len(real)))
            self.manual_backward(loss_d + self.penalty())
        losses = {"loss_d": loss_d.detach()}
        if not is_step:
            return losses
        self.take_step(for_discriminator)

        if self.global_step % self.n_critic == 0:
            batches = batch_idx % self.trainer.accumulate_grad_batches + 1
            for i in range(batches):
                with for_generator.toggle_model(sync_grad=i == batches - 1):
                    z, _ = self.draw(len(real), i + 1)
                    loss_g = self.loss_g(z)
                    self.manual_backward(loss_g + self.penalty())
            losses["loss_g"] = loss_g.detach()
            self.take_step(for_generator, counts=False)
            if self.ema is not None:
                self.ema.update_parameters(self.generator)
        return losses

    def draw(self, n: int, *key: int) -> tuple[Tensor, Tensor]:
        """Draws latents (n, Z) and positions between real and made-up images (n, 1, 1, 1) in (0, 1).

        Batches whose gradients are accumulated do not share them, nor do those of different `key`; see `Task.draws`.
        """
        draws = self.draws(n, *key)
        z, share = draws.normal(self.latent_dim), draws.uniform(1, 1, 1)
        return z.to(self.device, self.dtype), share.to(self.device, self.dtype)  # type: ignore[arg-type]

    def loss_d(self, real: Tensor, z: Tensor, share: Tensor) -> Tensor:
        """Returns the discriminator's loss on images (B, C, H, W) in [-1, 1], and ones made from latents (B, Z).

        Args:
            real: images.
            z: latents.
            share: see `gradient_penalty_of`.
        """
        fake = self.generator(z).detach()  # (B, Z) -> (B, C, H, W)
        loss = discriminator_loss(self.loss, _full(self.discriminator(real)), _full(self.discriminator(fake)))
        if self.loss == "wgan_gp" and self.gradient_penalty:
            loss = loss + self.gradient_penalty * gradient_penalty_of(self.discriminator, real, fake, share)
        return loss

    def loss_g(self, z: Tensor) -> Tensor:
        """Returns the generator's loss on images that it makes from latents (B, Z)."""
        return generator_loss(self.loss, _full(self.discriminator(self.generator(z))))

    # GenerativeMetrics, a callback, measures samples; Lightning runs these loops only if the steps are defined.
    def validation_step(self, batch: Batch, batch_idx: int) -> None: ...

    def test_step(self, batch: Batch, batch_idx: int) -> None: ...

    def on_validation_epoch_end(self) -> None:
        pixels = self._draw(self.latents) * self.std + self.mean  # (64, C, H, W) in [0, 1]
        log_image(self, "val/samples", make_grid(pixels.cpu(), nrow=8))

    def _draw(self, z: Tensor) -> Tensor:
        """Returns the images of latents (B, Z) by the averaged generator in evaluation mode."""
        network = self.generator if self.ema is None else self.ema
        training = network.training
        images = self._outward(network.eval()(z))  # (B, Z) -> (B, C, H, W)
        network.train(training)
        return images

    def _inward(self, images: Tensor) -> Tensor:
        """Maps images from the data's normalisation to [-1, 1]."""
        return (images * self.std + self.mean) * 2 - 1

    def _outward(self, x: Tensor) -> Tensor:
        """Maps images from [-1, 1] to the data's normalisation."""
        return ((x.float() + 1) / 2 - self.mean) / self.std


def _full(scores: Tensor) -> Tensor:
    """Returns scores of half precision in single precision, and others as they are."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _init_weights(layer: nn.Module) -> None:
    """Initialises a layer as DCGAN's authors do: Radford et al. 2016, section 4, and their code."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
    if isinstance(bias := getattr(layer, "bias", None), nn.Parameter):
        nn.init.zeros_(bias)
