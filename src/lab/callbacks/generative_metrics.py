"""Measures the quality of a model's samples, with a classifier trained on the same data."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics.image.fid import FrechetInceptionDistance

from lab.data.tensors import Batch, Batches, TensorDataModule
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import atomic_write
from lab.engine.utils.ranges import AtLeastTwo, Seed
from lab.models.lenet import LeNet

log = logging.getLogger(__name__)

# Training of the reference classifier: as experiment=mnist_lenet, to 99 % on MNIST
EPOCHS, BATCH_SIZE, LR, SEED = 4, 128, 5e-3, 0
CHUNK = 500  # images that are sampled and classified at a time


def frechet(features: Tensor, real: Tensor) -> float:
    """Returns the squared Frechet distance of the Gaussians fitted to features (N, D) and real features (M, D).

    Source: Dowson and Landau 1982, equation 4; Heusel et al. 2017, equation 6.
    """
    shape = (1, 1, features.shape[1])
    # Rank 0 alone computes: to synchronise would wait for the others for ever
    distance = FrechetInceptionDistance(nn.Identity(), input_img_size=shape, sync_on_compute=False).to(features.device)
    distance.update(real, real=True)
    distance.update(features, real=False)
    return float(distance.compute())


def score(logits: Tensor) -> float:
    """Returns the inception score of logits (N, K): exp of the mean KL from p(y|x) to p(y); from 1 to K.

    Source: Salimans et al. 2016, section 4, with the reference classifier in place of Inception.
    """
    p = logits.double().softmax(1)
    entropy = torch.special.entr
    return float((entropy(p.mean(0)).sum() - entropy(p).sum(1).mean()).exp())


def modes(logits: Tensor, share: float = 0.01) -> int:
    """Returns how many of K classes hold at least `share` of the samples with logits (N, K)."""
    counts = logits.argmax(1).bincount(minlength=logits.shape[1])
    return int((counts >= share * len(logits)).sum())


class GenerativeMetrics(pl.Callback):
    """Logs how close the samples of a model with `sample(n)` are to its data, labelled images.

    The reference classifier is a LeNet trained on the same training images. After each validation epoch, against the
    validation images, it logs `val/frechet` (the Frechet distance of its 84 penultimate features), `val/score` (the
    inception score by this classifier; at most the number of classes) and `val/modes` (classes that hold at least 1 %
    of the samples). After a test it logs the same against the test images, `test/frechet_floor` (the distance of as
    many training images) and `test/frechet_ratio`, which is 1 for samples as good as real images.

    Rank 0 measures, the others wait.

    Args:
        folder: of the classifiers' files, one for each training set.
        num_val_samples: sampled at each validation.
        num_test_samples: sampled at test, at most as many as there are training images.
        seed: of the samples: the latents are the same every time.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017; Salimans et al., Improved Techniques for
    Training GANs, 2016.
    """

    def __init__(
        self,
        folder: str = "data/reference_classifiers",
        num_val_samples: AtLeastTwo = 2000,
        num_test_samples: AtLeastTwo = 10_000,
        seed: Seed = 0,
    ) -> None:
        self.folder = Path(folder)
        self.num_val_samples = num_val_samples
        self.num_test_samples = num_test_samples
        self.seed = seed
        self._classifier: LeNet | None = None
        self._real: dict[str, Tensor] = {}  # features (N, 84) of real images, by split

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        metrics: dict[str, float] = {}
        if trainer.is_global_zero:
            cuda = [module.device] if module.device.type == "cuda" else []
            with torch.random.fork_rng(cuda):  # leaves the run's random state as it was
                metrics = self._measure(trainer, module, stage)
        metrics = trainer.strategy.broadcast(metrics)
        figures = {f"{stage}/{name}": value for name, value in metrics.items()}
        module.log_dict(figures, sync_dist=True, reduce_fx="max")  # equal on all ranks: a mean would round

    def _measure(self, trainer: pl.Trainer, module: Any, stage: str) -> dict[str, float]:
        """Returns the metrics of new samples against the real images of `stage`."""
        if self._classifier is None:
            with torch.inference_mode(False), torch.enable_grad():
                self._classifier = self._prepare(trainer.datamodule, module.device)  # type: ignore[attr-defined]
        classifier = self._classifier.to(module.device)
        number = self.num_val_samples if stage == "val" else min(self.num_test_samples, self._num_train)
        torch.manual_seed(self.seed)
        chunks = [min(CHUNK, number - start) for start in range(0, number, CHUNK)]
        features, logits = _concatenate([extract_features(classifier, module.sample(n)) for n in chunks])
        metrics = {"frechet": frechet(features, self._real[stage]), "score": score(logits)}
        metrics["modes"] = float(modes(logits))
        if stage == "test":
            metrics["frechet_floor"] = frechet(self._real["train"], self._real["test"])
            metrics["frechet_ratio"] = metrics["frechet"] / metrics["frechet_floor"]
        return metrics

    def _prepare(self, data: Any, device: torch.device) -> LeNet:
        """Loads or trains the reference classifier, and extracts the features of the real images."""
        if not isinstance(data, TensorDataModule):
            raise UserError(
                f"generative_metrics needs all images in memory, and {type(data).__name__} reads them one by one: give"
                " callbacks.generative_metrics=null objective=null"
            )
        splits: dict[str, Batch] = data.load()  # the whole data, not the share of this rank
        classifier = reference_classifier(self.folder, data, splits, device)
        self._num_train = len(splits["train"][0])
        for name, tensors in splits.items():
            rows = tuple(t[: self.num_test_samples] for t in tensors) if name == "train" else tensors
            extracted = [extract_features(classifier, batch[0]) for batch in batches(data, rows, device)]
            self._real[name] = _concatenate(extracted)[0]
        return classifier


def reference_classifier(folder: Path, data: Any, splits: dict[str, Batch], device: torch.device) -> LeNet:
    """Returns the reference classifier of the training images of `data`: loads it from `folder`, or trains it first."""
    images, labels = splits["train"]
    recipe = f"{EPOCHS} {BATCH_SIZE} {LR} {SEED}".encode()
    digest = hashlib.sha256(b"".join([recipe, images.numpy().tobytes(), labels.numpy().tobytes()])).hexdigest()
    path = folder / f"{type(data).__name__.lower()}-{digest[:12]}.pt"
    torch.manual_seed(SEED)
    channels, height, width = images.shape[1:]
    classifier = LeNet(image_shape=(channels, height, width), num_classes=int(labels.max()) + 1).to(device)
    if not path.exists():  # else nobody need write there
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # a second process waits here until the file exists
            if not path.exists():
                train_classifier(classifier, data, splits["train"], device)
                with atomic_write(path) as partial:
                    torch.save(classifier.state_dict(), partial)
                logits = [(extract_features(classifier, x)[1], y) for x, y in batches(data, splits["test"], device)]
                accuracy = torch.cat([(rows.argmax(1) == y).float() for rows, y in logits]).mean()
                log.info("trained a reference classifier: test accuracy %.4f, saved as %s", accuracy, path)
    classifier.load_state_dict(torch.load(path, map_location=device, weights_only=True))
    return classifier.eval()


def train_classifier(classifier: LeNet, data: Any, tensors: Batch, device: torch.device) -> None:
    """Trains a classifier for a few epochs of AdamW under a one-cycle schedule."""
    epoch = 0
    loader = batches(data, tensors, device, shuffle_seed=SEED, epoch=lambda: epoch)
    optimizer = AdamW(classifier.parameters(), lr=LR)
    schedule = OneCycleLR(optimizer, max_lr=LR, total_steps=EPOCHS * len(loader))
    for epoch in range(EPOCHS):  # noqa: B007, the loader reads it
        for images, labels in loader:
            loss = F.cross_entropy(classifier(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    classifier.eval()


def batches(data: Any, tensors: Batch, device: torch.device, **order: Any) -> Batches:
    """Returns `tensors` in batches, normalised as for evaluation."""
    size = BATCH_SIZE if order else CHUNK
    return Batches(tuple(t.to(device) for t in tensors), size, transform=data.eval_transform, **order)


@torch.no_grad()
def extract_features(classifier: LeNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the classifier's penultimate features (N, 84) and logits (N, K) of normalised images (N, C, H, W)."""
    features = classifier.head[:-1](classifier.features(images).flatten(1))
    return features, classifier.head[-1](features)


def _concatenate(chunks: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    features, logits = zip(*chunks, strict=True)
    return torch.cat(features), torch.cat(logits)
