"""The classification task: cross-entropy, its metrics, and what they look like at test time."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from lab.data.tensors import Batch
from lab.engine.utils.export_spec import ExportSpec
from lab.engine.utils.ranges import AtLeastTwo, Fraction, NonNegativeFloat
from lab.models.tasks.inference import inputs_and_targets, sample_shape
from lab.models.tasks.plots import TopErrors, draw_confusion, log_image
from lab.optim.optimizers import OptimizerFactory, configure
from lab.optim.regularization import penalty


class Classifier(pl.LightningModule):
    """Learns to tell `num_classes` classes apart; an architecture adds layers and a `forward` from inputs to logits.

    Batches are inputs (B, ...), one or more, and last the labels (B,) in [0, num_classes).

    Args:
        num_classes: K.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016, section 7); training only,
            so that `val/loss` stays the plain cross-entropy, in nats.
        l1: weight of the penalty on the weights' absolute values, see `regularization.penalty`; training only.
        l2: weight of the penalty on half the weights' squares, likewise.
        optimizer: factory, called with the parameters; needed to train.
        scheduler: see `lab.optim.optimizers.configure`.
    """

    def __init__(
        self,
        num_classes: AtLeastTwo = 10,
        label_smoothing: Fraction = 0.0,
        l1: NonNegativeFloat = 0.0,
        l2: NonNegativeFloat = 0.0,
        optimizer: OptimizerFactory | None = None,
        scheduler: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        # Called here it sees the arguments of the subclass as well. Plain values only: the factories stay out.
        self.save_hyperparameters(ignore=["optimizer", "scheduler"], logger=False)
        self.label_smoothing = label_smoothing
        self.l1 = l1
        self.l2 = l2
        self.optimizer = optimizer
        self.scheduler = scheduler

        options: dict[str, Any] = {"num_classes": num_classes, "validate_args": False}
        self.val_loss = MeanMetric()
        self.val_metrics = MetricCollection({"acc": MulticlassAccuracy(average="micro", **options)}, prefix="val/")
        self.test_loss = MeanMetric()
        self.test_metrics = MetricCollection(
            {
                "acc": MulticlassAccuracy(average="micro", **options),
                "precision": MulticlassPrecision(**options),
                "recall": MulticlassRecall(**options),
                "f1": MulticlassF1Score(**options),
            },
            prefix="test/",
        )
        self.test_confusion = MulticlassConfusionMatrix(**options)
        self.test_mistakes = TopErrors()
        self.class_names: Sequence[Any] = range(num_classes)

    def setup(self, stage: str) -> None:
        self.class_names = getattr(self.trainer.datamodule, "classes", None) or self.class_names  # type: ignore[attr-defined]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        *inputs, labels = batch
        logits = self(*inputs)  # (B, ...) -> (B, num_classes)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        loss = loss + penalty(self, self.l1, self.l2)
        return {"loss": loss, "acc": (logits.argmax(1) == labels).float().mean()}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_loss, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self._evaluate(batch, "test", self.test_loss, self.test_metrics)
        inputs, *_, labels = batch
        self.test_confusion.update(logits, labels)
        self.test_mistakes.update(inputs, logits, labels)

    def on_test_epoch_end(self) -> None:
        log_image(self, "test/confusion", draw_confusion(self.test_confusion.compute()))
        if len(self.test_mistakes):
            log_image(self, "test/mistakes", self.test_mistakes.draw())
        self.test_confusion.reset()
        self.test_mistakes.reset()

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Returns each sample's likeliest class, its probability, the target if known, and all probabilities."""
        inputs, targets = inputs_and_targets(batch)
        probabilities = self(*inputs).float().softmax(1)  # (B, ...) -> (B, num_classes)
        best, labels = probabilities.max(1)  # (B), (B)
        if isinstance(targets, Tensor):
            targets = [self.class_names[label] for label in targets.tolist()]
        return {
            "label": [self.class_names[label] for label in labels.tolist()],
            "probability": best,
            **({} if targets is None else {"target": targets}),
            **{f"p_{name}": column for name, column in zip(self.class_names, probabilities.T, strict=True)},
        }

    def export_wrapper(self, dims: dict[str, Any]) -> ExportSpec:
        return ExportSpec(self, "logits of the classes", ("logits",), ("input",), sample_shape(self, dims))

    def _evaluate(self, batch: Batch, stage: str, mean_loss: MeanMetric, metrics: MetricCollection) -> Tensor:
        *inputs, labels = batch
        logits = self(*inputs)
        mean_loss.update(F.cross_entropy(logits, labels), weight=len(labels))
        metrics.update(logits, labels)
        self.log(f"{stage}/loss", mean_loss)
        self.log_dict(metrics)  # type: ignore[arg-type]
        return logits

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure(self, self.optimizer, self.scheduler)
