"""How good a model's samples are, by a classifier trained on the same data."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from lab.data.tensors import Batch, Batches
from lab.engine.utils.ranges import AtLeastTwo, Seed
from lab.models.lenet import LeNet

log = logging.getLogger(__name__)

# How the judge is trained: as experiment=mnist_lenet is, to 99 % on MNIST
EPOCHS, BATCH_SIZE, LR, SEED = 4, 128, 5e-3, 0
CHUNK = 500  # images drawn and judged at a time

Moments = tuple[Tensor, Tensor]  # mean (D) and covariance (D, D)


def moments(features: Tensor) -> Moments:
    """Mean (D) and covariance (D, D) of features (N, D), in float64."""
    features = features.double()
    return features.mean(0), features.T.cov()


def frechet(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of two Gaussians: |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    Source: Dowson and Landau 1982, equation 4; Heusel et al. 2017, equation 6.
    """
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # root C_b root is symmetric and has the eigenvalues of C_a C_b
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def score(logits: Tensor) -> float:
    """The inception score of logits (N, K): exp of the mean KL from p(y|x) to p(y); from 1 to K.

    Source: Salimans et al. 2016, section 4, with our own judge for Inception.
    """
    p = logits.double().softmax(1)
    entropy = torch.special.entr
    return float((entropy(p.mean(0)).sum() - entropy(p).sum(1).mean()).exp())


def modes(logits: Tensor, share: float = 0.01) -> int:
    """How many of K classes hold at least `share` of the samples with logits (N, K)."""
    counts = logits.argmax(1).bincount(minlength=logits.shape[1])
    return int((counts >= share * len(logits)).sum())


class GenerativeMetrics(pl.Callback):
    """Logs how near the samples of a model are to its data; the model has `sample(n)`, the data is labelled images.

    A LeNet trained on the same training images judges. After each validation epoch, against the validation images,
    `val/frechet` (the Frechet distance in its 84 penultimate features), `val/score` (the inception score, with this
    judge; up to the number of classes) and `val/modes` (classes that hold at least 1 % of the samples). After a test
    the same against the test images, `test/frechet_floor` (the distance of as many training images) and
    `test/frechet_ratio`, which is one for samples as good as real ones.

    Rank 0 judges, the others wait.

    Args:
        folder: judges are kept here, one for each training set.
        num_val_samples: drawn at each validation.
        num_test_samples: drawn at test, no more than there are training images.
        seed: of the samples: the same latents every time.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017; Salimans et al., Improved Techniques for
    Training GANs, 2016.
    """

    def __init__(
        self,
        folder: str = "data/judges",
        num_val_samples: AtLeastTwo = 2000,
        num_test_samples: AtLeastTwo = 10_000,
        seed: Seed = 0,
    ) -> None:
        self.folder = Path(folder)
        self.num_val_samples = num_val_samples
        self.num_test_samples = num_test_samples
        self.seed = seed
        self._judge: LeNet | None = None
        self._real: dict[str, Moments] = {}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        figures: dict[str, float] = {}
        if trainer.is_global_zero:
            cuda = [module.device] if module.device.type == "cuda" else []
            with torch.random.fork_rng(cuda):  # the run draws what it would have drawn
                figures = self._measure(trainer, module, stage)
        figures = trainer.strategy.broadcast(figures)
        module.log_dict({f"{stage}/{name}": value for name, value in figures.items()}, sync_dist=True)

    def _measure(self, trainer: pl.Trainer, module: Any, stage: str) -> dict[str, float]:
        if self._judge is None:
            with torch.inference_mode(False), torch.enable_grad():
                self._judge = self._prepare(trainer.datamodule, module.device)  # type: ignore[attr-defined]
        judge = self._judge.to(module.device)
        number = self.num_val_samples if stage == "val" else min(self.num_test_samples, self._num_train)
        torch.manual_seed(self.seed)
        chunks = [min(CHUNK, number - start) for start in range(0, number, CHUNK)]
        features, logits = _join([look(judge, module.sample(n)) for n in chunks])
        figures = {"frechet": frechet(moments(features), self._real[stage]), "score": score(logits)}
        figures["modes"] = float(modes(logits))
        if stage == "test":
            figures["frechet_floor"] = frechet(self._real["train"], self._real["test"])
            figures["frechet_ratio"] = figures["frechet"] / figures["frechet_floor"]
        return figures

    def _prepare(self, data: Any, device: torch.device) -> LeNet:
        """Finds or trains the judge, and has it look at the real images."""
        splits: dict[str, Batch] = data.load()  # all of it, whatever this rank's share
        judge = find_judge(self.folder, data, splits, device)
        self._num_train = len(splits["train"][0])
        for name, tensors in splits.items():
            rows = tuple(t[: self.num_test_samples] for t in tensors) if name == "train" else tensors
            seen = [look(judge, batch[0]) for batch in batches(data, rows, device)]
            self._real[name] = moments(_join(seen)[0])
        return judge


def find_judge(folder: Path, data: Any, splits: dict[str, Batch], device: torch.device) -> LeNet:
    """The judge of the training images of `data`, kept in `folder`; trained where it is not there yet."""
    images, labels = splits["train"]
    recipe = f"{EPOCHS} {BATCH_SIZE} {LR} {SEED}".encode()
    digest = hashlib.sha256(b"".join([recipe, images.numpy().tobytes(), labels.numpy().tobytes()])).hexdigest()
    path = folder / f"{type(data).__name__.lower()}-{digest[:12]}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    channels, height, width = images.shape[1:]
    judge = LeNet(image_shape=(channels, height, width), num_classes=int(labels.max()) + 1).to(device)
    with FileLock(path.with_suffix(".lock")):  # a second process waits here, and then finds the file
        if not path.exists():
            train_judge(judge, data, splits["train"], device)
            partial = path.with_suffix(".part")
            torch.save(judge.state_dict(), partial)
            partial.replace(path)
            right = [(look(judge, x)[1].argmax(1) == y).float() for x, y in batches(data, splits["test"], device)]
            log.info("trained a judge of %s: test accuracy %.4f, kept as %s", path.stem, torch.cat(right).mean(), path)
    judge.load_state_dict(torch.load(path, map_location=device, weights_only=True))
    return judge.eval()


def train_judge(judge: LeNet, data: Any, tensors: Batch, device: torch.device) -> None:
    """A few epochs of AdamW under a one-cycle schedule."""
    epoch = 0
    loader = batches(data, tensors, device, shuffle_seed=SEED, epoch=lambda: epoch)
    optimizer = AdamW(judge.parameters(), lr=LR)
    schedule = OneCycleLR(optimizer, max_lr=LR, total_steps=EPOCHS * len(loader))
    for epoch in range(EPOCHS):  # noqa: B007, the loader asks for it
        for images, labels in loader:
            loss = F.cross_entropy(judge(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    judge.eval()


def batches(data: Any, tensors: Batch, device: torch.device, **order: Any) -> Batches:
    """All of `tensors` in batches, normalised as in evaluation."""
    size = BATCH_SIZE if order else CHUNK
    return Batches(tuple(t.to(device) for t in tensors), size, transform=data.eval_transform, **order)


@torch.no_grad()
def look(judge: LeNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the judge sees in normalised images (N, C, H, W): its penultimate features (N, 84) and logits (N, K)."""
    features = judge.head[:-1](judge.features(images).flatten(1))
    return features, judge.head[-1](features)


def _join(seen: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    features, logits = zip(*seen, strict=True)
    return torch.cat(features), torch.cat(logits)
