"""Defines a variational autoencoder.

Shapes: B images, K samples of each, L latents, D = C * H * W pixels.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchvision.utils import make_grid

from lab.data.draws import Draws
from lab.data.tensors import Batch, generator
from lab.engine.utils.errors import UserError
from lab.engine.utils.export_spec import ExportSpec
from lab.engine.utils.ranges import ImageShape, NonNegativeFloat, PixelMeanStd, PositiveInt
from lab.models.mlp import Activation, make_mlp
from lab.models.tasks.plots import log_image
from lab.models.tasks.task import Task

SEED = 0  # of every draw in validation and test: the same images and samples, whatever the run's seed


class VAE(Task):
    """Variational autoencoder: Gaussian latents, Bernoulli pixels, trained by the evidence lower bound (ELBO).

    Batches are images (B, C, H, W), normalised, and anything after them. A training image is binarised anew each time
    that it comes, each pixel by its own intensity; a validation or test image the same way every time. `val/loss` is
    the negative of what is trained on, in nats an image, `test/nll` the negative log-likelihood by importance sampling.

    Args:
        image_shape: (C, H, W); for "conv", H and W are multiples of 4.
        pixel_mean_std: (mean, std) that the data normalised pixels in [0, 1] by.
        network: "mlp", or "conv" with two strided convolutions each way.
        hidden_sizes: of the encoder of "mlp", and in reverse of its decoder.
        activation: after each hidden layer of "mlp"; tanh in Burda et al.
        channels: feature maps of the two convolutions of "conv"; ReLU follows each.
        latent_dim: L.
        beta: weight of the KL divergence; 1 makes a bound (Higgins et al. 2017, equation 4).
        num_samples: K of the importance-weighted bound that is trained on; 1 makes the ELBO.
        nll_samples: importance samples of each test image for `test/nll`.
        nll_images: at most so many test images, the first, count for `test/nll`; None for all.
        chunk_size: latent codes that are decoded at once for `test/nll`, which bounds its memory.
        **task: see `Task`.

    Raises:
        UserError: for sides that "conv" cannot halve twice, and a `beta` other than 1 with several samples.

    Source: Kingma and Welling, Auto-encoding variational Bayes, 2014, equation 10 and appendix B; Burda, Grosse and
        Salakhutdinov, Importance weighted autoencoders, 2016, equation 8, its sizes and figures from section 5.
    """

    def __init__(
        self,
        image_shape: ImageShape = (1, 28, 28),
        pixel_mean_std: PixelMeanStd = (0.15, 0.319),
        network: Literal["mlp", "conv"] = "mlp",
        hidden_sizes: Sequence[PositiveInt] = (200, 200),
        activation: Activation = "tanh",
        channels: tuple[PositiveInt, PositiveInt] = (32, 64),
        latent_dim: PositiveInt = 50,
        beta: NonNegativeFloat = 1.0,
        num_samples: PositiveInt = 1,
        nll_samples: PositiveInt = 5000,
        nll_images: PositiveInt | None = 1000,
        chunk_size: PositiveInt = 1000,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        if num_samples > 1 and beta != 1:
            raise UserError(
                f"num_samples={num_samples}, beta={beta}: the importance-weighted bound has no KL term to weigh, so"
                " set beta=1 or num_samples=1"
            )
        self.image_shape = tuple(image_shape)
        self.mean, self.std = pixel_mean_std
        self.latent_dim = latent_dim
        self.beta = beta
        self.num_samples = num_samples
        self.nll_samples = nll_samples
        self.nll_images = nll_images
        self.chunk_size = chunk_size
        if network == "mlp":
            num_pixels = math.prod(image_shape)
            self.encoder = make_mlp(num_pixels, 2 * latent_dim, hidden_sizes, activation, 0.0, False)
            self.decoder = make_mlp(latent_dim, num_pixels, hidden_sizes[::-1], activation, 0.0, False)
        else:
            self.encoder, self.decoder = _convolutions(self.image_shape, channels, latent_dim)
        self.val_loss, self.val_elbo = MeanMetric(), MeanMetric()
        self.test_loss, self.test_elbo, self.test_nll = MeanMetric(), MeanMetric(), MeanMetric()
        self._seen = 0  # images of an evaluation, on this rank
        self._shown: Tensor | None = None  # validation images for the pictures

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns pixel logits at the posterior's mean, and its mean and log-variance, of normalised images."""
        mean, log_var = self.encode(self.intensities(x))  # (B, C, H, W) -> (B, L), (B, L)
        logits = self.decoder(mean)  # (B, L) -> (B, D)
        return logits.unflatten(1, self.image_shape), mean, log_var

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(x).to(x).chunk(2, dim=1)  # (B, C, H, W) in [0, 1] -> (B, 2 L) -> twice (B, L)
        return mean, log_var

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])  # (B, K, L) -> (B, K, D), logits of the pixels

    def bounds(self, x: Tensor, num_samples: int, draws: Draws) -> dict[str, Tensor]:
        """Returns bounds on log p(x), and their terms, in nats, for each binary image.

        Args:
            x: (B, C, H, W), zeros and ones.
            num_samples: K.
            draws: for each image.

        Returns:
            Each (B,): `reconstruction`, the mean of -log p(x|z); `kl`, the divergence of q(z|x) from p(z); `elbo`;
            `bound`, the importance-weighted one where K > 1, else the ELBO with the KL divergence weighed by `beta`.
        """
        mean, log_var = self.encode(x)
        noise = draws.normal(num_samples, self.latent_dim).to(mean)  # (B, K, L)
        z = reparameterize(mean, log_var, noise)
        log_p_x_z = log_bernoulli(x, self.decode(z))  # (B, K)
        reconstruction, kl = -log_p_x_z.mean(1), kl_divergence(mean, log_var)  # (B), (B)
        if num_samples == 1:
            bound = -reconstruction - self.beta * kl
        else:
            log_weights = log_p_x_z + log_prior_ratio(z, log_var, noise)
            bound = log_weights.logsumexp(1) - math.log(num_samples)
        return {"reconstruction": reconstruction, "kl": kl, "elbo": -reconstruction - kl, "bound": bound}

    @torch.inference_mode()
    def log_likelihood(self, x: Tensor, num_samples: int, draws: Draws) -> Tensor:
        """Estimates log p(x), in nats, of binary images (B, C, H, W) by importance sampling from q(z|x): (B,).

        Memory holds `chunk_size` decoded images at a time; the result depends on it by rounding alone.
        """
        found = []
        # Not in bfloat16, under mixed precision: its rounding made log p(x) on MNIST 0.13 nats too high
        with torch.autocast(self.device.type, enabled=False):
            images = max(1, self.chunk_size // num_samples)
            for part, of_part in zip(x.split(images), draws.split(images), strict=True):
                mean, log_var = self.encode(part)
                total = mean.new_full((len(part),), -math.inf)
                for chunk in torch.arange(num_samples).split(max(1, self.chunk_size // len(part))):
                    noise = of_part.normal(len(chunk), self.latent_dim).to(mean)  # (b, k, L)
                    z = reparameterize(mean, log_var, noise)
                    log_weights = log_bernoulli(part, self.decode(z)) + log_prior_ratio(z, log_var, noise)  # (b, k)
                    total = torch.logaddexp(total, log_weights.logsumexp(1))
                found.append(total - math.log(num_samples))
        return torch.cat(found)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws `n` images (n, C, H, W) from the prior: Bernoulli means, normalised as the data; CPU `generator`."""
        z = torch.randn(n, self.latent_dim, generator=generator).to(self.device, self.dtype)  # type: ignore[arg-type]
        return (self._means(z) - self.mean) / self.std

    def sample_images(self, n: int, seed: int = 0) -> Tensor:
        """Draws `n` images (n, C, H, W) from the prior, pixels in [0, 1]."""
        return self.intensities(self.sample(n, generator(seed)))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Returns the ELBO of each image and its two terms, in nats."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        draws = Draws(torch.arange(len(images), device=self.device), SEED)
        found = self.bounds(binarise(self.intensities(images), draws), 1, draws)  # each (B)
        return {name: found[name] for name in ("elbo", "reconstruction", "kl")}

    def export_wrapper(self, dims: dict[str, Any]) -> ExportSpec:
        description = "the mean of each pixel, in [0, 1], at the code's mean, and mean and log-variance of the code"
        names = ("reconstruction", "mean", "log_var")
        return ExportSpec(self, description, names, ("input",), self.image_shape, forward=self.reconstruct)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns `forward` with pixels in place of their logits."""
        logits, mean, log_var = self(x)
        return logits.sigmoid(), mean, log_var  # (B, C, H, W), (B, L), (B, L)

    def intensities(self, x: Tensor) -> Tensor:
        """Maps normalised images to intensities in [0, 1]."""
        return (x * self.std + self.mean).clamp(0, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        draws = self.draws(len(batch[0]))
        found = self.bounds(binarise(self.intensities(batch[0]), draws), self.num_samples, draws)
        means = {name: found[name].mean() for name in ("reconstruction", "kl")}
        return {"loss": self.penalty() - found["bound"].mean(), **means}

    def on_validation_epoch_start(self) -> None:
        self._seen = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, _ = self._evaluate(batch, "val", self.val_loss, self.val_elbo)
        if batch_idx == 0:
            self._shown = x[:10]

    def on_test_epoch_start(self) -> None:
        self._seen = 0

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        x, numbers = self._evaluate(batch, "test", self.test_loss, self.test_elbo)
        if self.nll_images is not None:
            numbers = numbers[numbers < self.nll_images]
        if len(numbers):
            draws = Draws(numbers, SEED, 1)  # others than the bounds', whatever K is
            self.test_nll.update(-self.log_likelihood(x[: len(numbers)], self.nll_samples, draws))
        self.log("test/nll", self.test_nll)

    def _evaluate(
        self, batch: Batch, stage: str, mean_loss: MeanMetric, mean_elbo: MeanMetric
    ) -> tuple[Tensor, Tensor]:
        """Logs the bounds of a batch, and returns its images, binarised, and their numbers (B,) in the data."""
        end = self._seen + len(batch[0])
        # Ranks take turns, image by image
        numbers = torch.arange(self._seen, end, device=self.device) * self.trainer.world_size + self.global_rank
        self._seen = end
        draws = Draws(numbers, SEED)
        x = binarise(self.intensities(batch[0]), draws)
        found = self.bounds(x, self.num_samples, draws)
        mean_loss.update(-found["bound"])
        mean_elbo.update(found["elbo"])
        self.log(f"{stage}/loss", mean_loss)
        self.log(f"{stage}/elbo", mean_elbo)
        return x, numbers

    def on_validation_epoch_end(self) -> None:
        """Logs plots: reconstructions under their originals, samples of the prior, walks between two images' codes."""
        if self._shown is None or self.image_shape[0] not in (1, 3):
            return
        mean, _ = self.encode(self._shown)  # (10, L)
        pairs = torch.stack([self._shown, self._means(mean)])  # (2, 10, C, H, W)
        log_image(self, "val/reconstructions", make_grid(pairs.flatten(0, 1), nrow=len(mean)))
        draws = generator(SEED, self.global_rank)
        log_image(self, "val/samples", make_grid(self.intensities(self.sample(100, draws)), nrow=10))
        steps = torch.linspace(0, 1, 10).to(mean).unsqueeze(1)  # (10, 1)
        walks = [self._means(a + steps * (b - a)) for a, b in pairwise(mean)]
        if walks:
            log_image(self, "val/walks", make_grid(torch.cat(walks), nrow=10))

    def _means(self, z: Tensor) -> Tensor:
        """Returns the decoder's mean of each pixel: (B, L) -> (B, C, H, W) in [0, 1]."""
        return self.decoder(z).sigmoid().unflatten(1, self.image_shape)


def reparameterize(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """Turns standard normal noise (B, K, L) into codes of q(z|x), whose mean and log-variance are (B, L)."""
    return mean.unsqueeze(1) + noise * (0.5 * log_var).exp().unsqueeze(1)


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Returns log p(x|z) (B, K) of binary images (B, C, H, W), from the logits of their pixels (B, K, D)."""
    logits = logits.to(x)
    with torch.autocast(x.device.type, enabled=False):  # sums of hundreds of nats, too long for half precision
        # A Bernoulli's log-probability is x l - log(1 + exp(l)): a product of matrices, one pass over the logits
        x_logits = (logits @ x.flatten(1).unsqueeze(2)).squeeze(2)  # (B, K, D) @ (B, D, 1) -> (B, K)
        return x_logits - F.softplus(logits).sum(2)


def kl_divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    """Returns the divergence of q(z|x) from the prior, (B, L) -> (B): Kingma and Welling, appendix B."""
    return -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1)


def log_prior_ratio(z: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """Returns log p(z) - log q(z|x) (B, K) at the codes z (B, K, L) that the noise was turned into."""
    return 0.5 * ((noise.square() - z.square()).sum(2) + log_var.sum(1, keepdim=True))


def binarise(intensities: Tensor, draws: Draws) -> Tensor:
    """Draws zeros and ones (B, C, H, W), a one with the intensity's probability."""
    uniform = draws.uniform(*intensities.shape[1:]).to(intensities.device)
    return (uniform < intensities).to(intensities)


def _convolutions(
    image_shape: Sequence[int], channels: Sequence[int], latent_dim: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Makes the encoder (B, C, H, W) -> (B, 2 L) and the decoder (B, L) -> (B, D)."""
    in_channels, height, width = image_shape
    if height % 4 or width % 4:
        raise UserError(f"image_shape={list(image_shape)}: two halvings need height and width that are multiples of 4")
    c1, c2 = channels
    small = (c2, height // 4, width // 4)
    strided = (4, 2, 1)  # kernel, stride and padding that halve or double each side
    encoder = nn.Sequential(
        nn.Conv2d(in_channels, c1, *strided),  # (B, C, H, W) -> (B, c1, H/2, W/2)
        nn.ReLU(),
        nn.Conv2d(c1, c2, *strided),  # -> (B, c2, H/4, W/4)
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(math.prod(small), 2 * latent_dim),
    )
    decoder = nn.Sequential(
        nn.Linear(latent_dim, math.prod(small)),
        nn.ReLU(),
        nn.Unflatten(1, small),  # (B, c2, H/4, W/4)
        nn.ConvTranspose2d(c2, c1, *strided),  # -> (B, c1, H/2, W/2)
        nn.ReLU(),
        nn.ConvTranspose2d(c1, in_channels, *strided),  # -> (B, C, H, W)
        nn.Flatten(),
    )
    return encoder, decoder
