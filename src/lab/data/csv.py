"""Serves a table of the user's own: data=csv data.path=FILE data.target=COLUMN"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from lab.data.table_schema import (
    Decimal,
    Schema,
    Task,
    doubtful_columns,
    encode_features,
    encode_target,
    feature_names,
    infer_schema,
    read_csv,
)
from lab.data.tables import TableDataModule
from lab.data.tensors import Batch
from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import FilePath, InnerFraction, PositiveInt

log = logging.getLogger(__name__)


class CSV(TableDataModule):
    """Serves the rows of a CSV file: features (B, D), labels (B,) or values (B, 1); see `lab.data.table_schema`.

    Values keep their units. A model that needs them on a sane scale reads `target_scale`.

    A run that is evaluated on another `path` prepares that file's rows by the columns and statistics of the training
    file, which every checkpoint holds; the file may have its columns in another order, and more of them.

    Args:
        path: of the file.
        target: name of the column to predict.
        task: `classification`, `regression`, or `auto`: classification for strings, booleans and whole numbers with at
            most 20 different values.
        drop: names of the columns to leave out.
        decimal: how columns of numbers may be written beside `plain`, 1234.5: with `point` as 1,234.5 or 12 %, with
            `comma` as 1.234,5 or 1 234,5. A percent sign is dropped, 12 stays 12.
        val_fraction: of the rows, held out for validation.
        test_fraction: of the rows, held out to test on.
        batch_size: training rows of one step, over all ranks together.
        **table: see `TableDataModule`.

    Attributes:
        classes: their names; None for values, and before `setup`.
        target_scale: mean and standard deviation of the training values, the latter 1 where all are equal; None for
            labels, and before `setup`.
    """

    predict_suffixes = (".csv", ".tsv")

    def __init__(
        self,
        path: FilePath,
        target: str | int,
        task: Task = "auto",
        drop: Sequence[str | int] = (),
        decimal: Decimal = "plain",
        val_fraction: InnerFraction = 0.15,
        test_fraction: InnerFraction = 0.15,
        batch_size: PositiveInt = 32,
        **table: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **table)
        if val_fraction + test_fraction >= 1:
            raise UserError(f"val_fraction={val_fraction}, test_fraction={test_fraction}: nothing is left to train on")
        self.path = path
        self.target = str(target)
        self.task = task
        self.drop = [str(name) for name in drop]
        self.decimal = decimal
        self.held_out = {"val": float(val_fraction), "test": float(test_fraction)}
        self.schema: Schema = {}
        self.classes: list[str] | None = None
        self.target_scale: tuple[float, ...] | None = None

    @property
    def source(self) -> Path:
        return Path(self.path)

    @property
    def preparation(self) -> dict[str, Any]:
        scale = None if self.target_scale is None else list(self.target_scale)
        read = {"schema": self.schema, "target": self.target, "classes": self.classes, "target_scale": scale}
        return super().preparation | read | {"columns": feature_names(self.schema)}

    def restore(self, preparation: dict[str, Any]) -> None:
        super().restore(preparation)
        self.schema, self.classes = preparation["schema"], preparation["classes"]
        scale = preparation["target_scale"]
        self.target_scale = None if scale is None else tuple(scale)

    def load(self) -> dict[str, Batch]:
        path = Path(self.path)
        strings = read_csv(path, decimal=self.decimal)
        if not self.schema:
            self.schema, self.classes = infer_schema(strings, self.target, self.task, self.drop, path.name)
            for doubt in doubtful_columns(strings, self.schema):
                log.warning("note: %s", doubt)
        targets = torch.from_numpy(encode_target(strings, self.target, self.classes, path.name))  # (N,)
        features = torch.from_numpy(encode_features(strings, self.schema, path.name))  # (N, D)
        if self.classes is not None:
            return self.prepare(features, targets, self.held_out)
        splits = self.prepare(features, targets.unsqueeze(1), self.held_out)
        for name, (_, values) in splits.items():
            if len(values) < 2:
                raise UserError(f"{self.path}: its {name} part has one row, and R2 needs two: give more rows")
        if self.target_scale is None:
            values = splits["train"][1].double()
            self.target_scale = float(values.mean()), float(values.std(correction=0)) or 1.0
        return splits

    def read(self, path: str | Path, key: str = "data.path") -> tuple[Tensor, pl.Series | None]:
        """Reads the rows of a file, with or without targets, prepared for the model.

        Args:
            path: of the file.
            key: what the user gave it as.

        Returns:
            Features (N, D), in float64, and the strings in the column of targets, None without one.

        Raises:
            UserError: where `encode_features` does, and for a missing value where rows with such were dropped.
        """
        path = Path(path)
        strings = read_csv(path, key, self.decimal)
        features = self.preprocessor(torch.from_numpy(encode_features(strings, self.schema, path.name)))
        for row, column in features.isnan().nonzero()[:1].tolist():
            raise UserError(
                f"row {row + 1} of {path.name}: {feature_names(self.schema)[column]} is missing, and the run was"
                " trained on rows without gaps\nfill the row, or train with data.missing=median"
            )
        return features, strings[self.target] if self.target in strings.columns else None

    def predict_inputs(self, paths: Sequence[Path]) -> list[tuple[Tensor, list[Any] | None]]:
        """Returns a batch for each file: features (B, D), and targets, strings or numbers; None without."""
        batches: list[tuple[Tensor, list[Any] | None]] = []
        for path in paths:
            features, targets = self.read(path, "in")
            if targets is not None and self.classes is None:
                targets = targets.cast(pl.Float64, strict=False)
            for start in range(0, len(features), self.eval_batch_size):
                rows = slice(start, start + self.eval_batch_size)
                batches.append((features[rows].float(), None if targets is None else targets[rows].to_list()))
        return batches
