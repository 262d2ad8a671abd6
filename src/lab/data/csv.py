"""Serves a table of the user's own: data=csv data.path=FILE data.target=COLUMN"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from lab.data.draws import Draws
from lab.data.prepare import NONE_LEFT, UNCHANGED, Preprocessor, stratified_split
from lab.data.table_file import SHARE, Resident, find_unusable, infer_large, is_large, map_rows, remembered
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
from lab.data.tensors import Batch, generator
from lab.engine.utils.errors import UserError
from lab.engine.utils.machine import memory_limit
from lab.engine.utils.ranges import FilePath, InnerFraction, PositiveInt

log = logging.getLogger(__name__)


class CSV(TableDataModule):
    """Serves the rows of a CSV file: features (B, D), labels (B,) or values (B, 1); see `lab.data.table_schema`.

    Values keep their units. A model that needs them on a sane scale reads `target_scale`.

    A run that is evaluated on another `path` prepares that file's rows by the columns and statistics of the training
    file, which every checkpoint holds; the file may have its columns in another order, and more of them.

    A file larger than memory is read some rows at a time, once: its rows lie as numbers, in float32, in a file that is
    mapped into memory, and are imputed and standardised a batch at a time. All else is the same.

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
        resident: whether the rows are held in memory; `auto`: where the file takes less than a sixteenth of it.
        data_dir: rows that are not lie in its folder tables.
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
        resident: Resident = "auto",
        data_dir: str = "data",
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
        self.resident = resident
        self.data_dir = data_dir
        self.held_out = {"val": float(val_fraction), "test": float(test_fraction)}
        self.schema: Schema = {}
        self.classes: list[str] | None = None
        self.target_scale: tuple[float, ...] | None = None
        self._features: Tensor | None = None  # (N, D) of all rows, mapped; None where they are held in memory

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

    def prepare_data(self) -> None:
        if is_large(self.source, self.resident):  # one process of a machine encodes it
            self._map()

    def load(self) -> dict[str, Batch]:
        splits = self._load_mapped() if is_large(self.source, self.resident) else self._load_resident()
        if self.classes is not None:
            return splits
        for name, (_, values) in splits.items():
            if len(values) < 2:
                raise UserError(f"{self.path}: its {name} part has one row, and R2 needs two: give more rows")
        if self.target_scale is None:
            values = splits["train"][1].double()
            self.target_scale = float(values.mean()), float(values.std(correction=0)) or 1.0
        return splits

    def _load_resident(self) -> dict[str, Batch]:
        strings = read_csv(self.source, decimal=self.decimal)
        if not self.schema:
            self.schema, self.classes = infer_schema(strings, self.target, self.task, self.drop, self.source.name)
            for doubt in doubtful_columns(strings, self.schema):
                log.warning("note: %s", doubt)
        targets = torch.from_numpy(encode_target(strings, self.target, self.classes, self.source.name))  # (N,)
        features = torch.from_numpy(encode_features(strings, self.schema, self.source.name))  # (N, D)
        return self.prepare(features, targets if self.classes else targets.unsqueeze(1), self.held_out)

    def _map(self) -> tuple[Schema, list[str] | None, np.ndarray[Any, Any]]:
        schema, classes = self.schema, self.classes
        if not schema:
            schema, classes = infer_large(self.source, self.target, self.task, self.drop, self.decimal, self.data_dir)
        return schema, classes, map_rows(self.source, self.target, schema, classes, self.decimal, self.data_dir)

    def _load_mapped(self) -> dict[str, Batch]:
        """Returns the numbers of the rows of each split, and their targets."""
        self.schema, self.classes, rows = self._map()
        self._features = from_dlpack(rows["features"])
        unusable = find_unusable(rows, self.missing, self.duplicates)
        kept = torch.from_numpy(~np.any([*unusable.values()], axis=0)).nonzero().squeeze(1)  # numbers of rows
        if not len(kept):
            raise UserError(NONE_LEFT.format(self.missing))
        targets = torch.from_numpy(np.array(rows["target"]))[kept]
        targets = targets.long() if self.classes else targets.to(self.dtype).unsqueeze(1)
        parts = stratified_split(targets, self.held_out, generator(self.seed, 2))
        splits: dict[str, Batch] = {name: (kept[index], targets[index]) for name, index in parts.items()}
        self.log_preparation(len(rows), {reason: int(mask.sum()) for reason, mask in unusable.items()}, 0, splits)
        if self.preprocessor is UNCHANGED:
            self.preprocessor = self._fit(splits["train"][0])
        return splits

    def _fit(self, rows: Tensor) -> Preprocessor:
        """Learns from the training rows, from as many columns at a time as take a sixteenth of the memory, once."""

        def fit() -> list[list[float]]:
            assert self._features is not None
            found: list[list[float]] = [[], [], []]
            for columns in self._features.split(max(1, memory_limit() // SHARE // (8 * len(rows))), dim=1):
                part = Preprocessor.fit(columns.index_select(0, rows).double(), self.missing, self.standardize)
                for statistic, values in zip(found, vars(part).values(), strict=True):
                    statistic += values.expand(columns.shape[1]).tolist()
            return found

        choices = (self.decimal, self.seed, self.held_out, self.missing, self.duplicates, self.standardize)
        kept = remembered(fit, self.data_dir, self.source, self.target, self.schema, self.classes, *choices)
        return Preprocessor(*(torch.tensor(statistic, dtype=torch.float64) for statistic in kept))

    def eval_transform(self, batch: Batch, draws: Draws) -> Batch:
        if self._features is None:
            return batch
        rows, targets = batch
        features = self.preprocessor(self._features.index_select(0, rows.cpu()))
        return features.to(rows.device, self.dtype), targets

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
