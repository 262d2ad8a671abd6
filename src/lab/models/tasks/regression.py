"""Defines the regression task: squared or Huber loss, and its metrics."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

from lab.data.tensors import Batch
from lab.engine.utils.export_spec import ExportSpec
from lab.engine.utils.ranges import PositiveFloat, PositiveInt
from lab.models.tasks.inference import inputs_and_targets, sample_shape
from lab.models.tasks.task import Task


class Regressor(Task):
    """Learns to predict numbers; an architecture adds layers and a `forward` from inputs to (B, num_targets).

    Batches are inputs (B, ...), one or more, and last the targets (B, num_targets). Where the data offers
    `target_scale`, the mean and the standard deviation of its training targets, the layers predict targets standardised
    by it, and the loss is of these. Metrics and `predict` are in the targets' own units.

    Args:
        num_targets: numbers to predict for each sample.
        loss: `mse`, or `huber`, which is quadratic up to `huber_delta` and linear beyond (Huber 1964).
        huber_delta: in units of the (standardised) targets.
        **task: see `Task`.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        num_targets: PositiveInt = 1,
        loss: Literal["mse", "huber"] = "mse",
        huber_delta: PositiveFloat = 1.0,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        self.loss = loss
        self.huber_delta = huber_delta
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        self.val_r2, self.test_r2 = R2Score(), R2Score()
        self.val_metrics = MetricCollection(self.make_metrics("val"), prefix="val/")
        self.test_metrics = MetricCollection(self.make_metrics("test"), prefix="test/")

    def make_metrics(self, stage: str) -> dict[str, Metric | MetricCollection]:
        """Returns the metrics of predictions and targets (B, num_targets) by name; a subclass may add its own.

        Args:
            stage: `val` or `test`.
        """
        return {"mse": MeanSquaredError(), "rmse": MeanSquaredError(squared=False), "mae": MeanAbsoluteError()}

    def compute_loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss of a batch, both (B, num_targets) and standardised; a subclass may have another."""
        if self.loss == "huber":
            return F.huber_loss(predictions, targets, delta=self.huber_delta)
        return F.mse_loss(predictions, targets)

    def setup(self, stage: str) -> None:
        scale = getattr(self.trainer.datamodule, "target_scale", None)  # type: ignore[attr-defined]
        if stage == "fit" and scale is not None:
            self.target_mean.fill_(scale[0])
            self.target_std.fill_(scale[1])

    def predict(self, *inputs: Tensor) -> Tensor:
        """Returns predictions (B, num_targets) in the targets' own units."""
        return self._in_units(self(*inputs))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        *inputs, targets = batch
        predictions = self(*inputs)  # (B, ...) -> (B, num_targets)
        return {"loss": self.compute_loss(predictions, self._standardised(targets)) + self.penalty()}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_loss, self.val_metrics, self.val_r2)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_loss, self.test_metrics, self.test_r2)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Returns predictions, and targets where they are known, in the targets' own units."""
        inputs, targets = inputs_and_targets(batch)
        return {"prediction": self.predict(*inputs), **({} if targets is None else {"target": targets})}

    def export_wrapper(self, dims: dict[str, Any]) -> ExportSpec:
        description, shape = "predictions in the targets' own units", sample_shape(self, dims)
        return ExportSpec(self, description, ("prediction",), ("input",), shape, forward=self.predict)

    def _standardised(self, targets: Tensor) -> Tensor:
        return (targets - self.target_mean) / self.target_std

    def _in_units(self, predictions: Tensor) -> Tensor:
        return predictions.to(self.target_std) * self.target_std + self.target_mean

    def _evaluate(
        self, batch: Batch, stage: str, mean_loss: MeanMetric, metrics: MetricCollection, r2: R2Score
    ) -> None:
        *inputs, targets = batch
        predictions = self(*inputs).to(targets)  # half precision would round what the units add
        standardised = self._standardised(targets)
        mean_loss.update(self.compute_loss(predictions, standardised), weight=len(targets))
        metrics.update(self._in_units(predictions), targets)
        r2.update(predictions, standardised)  # the same in any units, and sums of squares stay small
        self.log(f"{stage}/loss", mean_loss)
        self.log(f"{stage}/r2", r2)
        self.log_dict(metrics)  # type: ignore[arg-type]
