"""Defines the classification task: cross-entropy, metrics, and plots of a test."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from lab.data.tensors import Batch
from lab.engine.utils.export_spec import ExportSpec
from lab.engine.utils.ranges import AtLeastTwo, Fraction
from lab.models.tasks.inference import inputs_and_targets, sample_shape
from lab.models.tasks.plots import TopErrors, draw_confusion, log_image
from lab.models.tasks.task import Task


class Classifier(Task):
    """Learns to classify; an architecture adds layers and a `forward` from inputs to logits (B, num_classes).

    Batches are inputs (B, ...), one or more, and last the labels (B,) in [0, num_classes).

    Args:
        num_classes: K.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016, section 7); training only,
            so that `val/loss` stays the plain cross-entropy, in nats.
        **task: see `Task`.
    """

    def __init__(
        self,
        num_classes: AtLeastTwo = 10,
        label_smoothing: Fraction = 0.0,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.class_names: Sequence[Any] = range(num_classes)
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        self.val_metrics = MetricCollection(self.make_metrics("val"), prefix="val/")
        self.test_metrics = MetricCollection(self.make_metrics("test"), prefix="test/")
        self.test_confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.test_mistakes = TopErrors()

    def make_metrics(self, stage: str) -> dict[str, Metric | MetricCollection]:
        """Returns the metrics of logits (B, num_classes) and labels (B,) by name; a subclass may add its own.

        Args:
            stage: `val` or `test`.
        """
        options: dict[str, Any] = {"num_classes": self.num_classes, "validate_args": False}
        accuracy: dict[str, Metric | MetricCollection] = {"acc": MulticlassAccuracy(average="micro", **options)}
        if stage == "val":
            return accuracy
        return accuracy | {
            "precision": MulticlassPrecision(**options),
            "recall": MulticlassRecall(**options),
            "f1": MulticlassF1Score(**options),
        }

    def compute_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean loss of a batch, logits (B, num_classes) and labels (B,); a subclass may have another."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing if self.training else 0.0)

    def setup(self, stage: str) -> None:
        self.class_names = getattr(self.trainer.datamodule, "classes", None) or self.class_names  # type: ignore[attr-defined]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        *inputs, labels = batch
        logits = self(*inputs)  # (B, ...) -> (B, num_classes)
        loss = self.compute_loss(logits, labels) + self.penalty()
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
        mean_loss.update(self.compute_loss(logits, labels), weight=len(labels))
        metrics.update(logits, labels)
        self.log(f"{stage}/loss", mean_loss)
        self.log_dict(metrics)  # type: ignore[arg-type]
        return logits
