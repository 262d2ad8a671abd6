"""A table of one's own: data=csv data.path=FILE data.target=COLUMN"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.data.encode import read_rows, read_targets
from lab.data.files import Source, Task, names, read_table
from lab.data.frames import check_columns
from lab.data.tables import TableDataModule
from lab.data.tensors import Batch
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import check_file
from lab.engine.utils.ranges import InnerFraction, PositiveInt


class CSV(TableDataModule):
    """The rows of a CSV file: features (B, D), with labels (B,) or values (B, 1); see `lab.data.files.read_table`.

    Values keep their units. A model that needs them on a sane scale reads `target_scale`.

    A run that is evaluated on another `path` sees that file's rows as the training file's columns and statistics say,
    which every checkpoint holds; the file may have its columns in another order, and more of them.

    Args:
        path: of the file.
        target: name of the column to predict.
        task: `auto` means classification for words, booleans and whole numbers with at most 20 different values.
        drop: names of the columns to leave out.
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
    classes: list[str] | None = None
    target_scale: tuple[float, float] | None = None

    def __init__(
        self,
        path: str,
        target: str | int,
        task: Task = "auto",
        drop: Sequence[str | int] = (),
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
        self.held_out = {"val": float(val_fraction), "test": float(test_fraction)}
        self.sources: list[Source] = []

    @property
    def preparation(self) -> dict[str, Any]:
        scale = None if self.target_scale is None else list(self.target_scale)
        read = {"sources": self.sources, "target": self.target, "classes": self.classes, "target_scale": scale}
        return super().preparation | read | {"columns": names(self.sources)}

    def restore(self, preparation: dict[str, Any]) -> None:
        super().restore(preparation)
        self.sources, self.classes = preparation["sources"], preparation["classes"]
        scale = preparation["target_scale"]
        self.target_scale = None if scale is None else (scale[0], scale[1])

    def load(self) -> dict[str, Batch]:
        features, targets = self._read()
        splits = self.prepare(features, targets, self.held_out)
        if self.classes is None:
            for name, (_, values) in splits.items():
                if len(values) < 2:
                    raise UserError(f"{self.path}: its {name} part has one row, and R2 needs two: give more rows")
            if self.target_scale is None:
                values = splits["train"][1].double()
                self.target_scale = float(values.mean()), float(values.std(correction=0)) or 1.0
        return splits

    def _read(self) -> Batch:
        """Features (N, D), in float64, and labels (N,) or values (N, 1) of the file at `path`."""
        if self.sources:
            frame, features = read_rows(self.path, self.sources)
            check_columns(frame.columns, self.target, Path(self.path).name, "data.target")
            targets = read_targets(frame[self.target], self.classes, Path(self.path).name)
        else:
            table = read_table(self.path, self.target, self.task, self.drop)
            self.sources, self.classes = table.sources, table.classes
            features, targets = table.features, table.target
        found = torch.from_numpy(targets)
        return torch.from_numpy(features), found.unsqueeze(1) if self.classes is None else found  # (N,) -> (N, 1)

    def read(self, path: str, key: str = "data.path") -> tuple[Tensor, list[str | None] | None]:
        """The rows of a file, with or without targets, as the model reads them.

        Args:
            path: of the file.
            key: what the user gave it as.

        Returns:
            Features (N, D), in float64, and what the column of targets says, None without one.

        Raises:
            UserError: where `read_rows` does, and for a missing value where rows with such were dropped.
        """
        frame, values = read_rows(path, self.sources, key)
        features = torch.from_numpy(values)
        if self.filler is None and features.isnan().any():
            row, column = features.isnan().nonzero()[0].tolist()
            raise UserError(
                f"row {row + 1} of {Path(path).name}: {names(self.sources)[column]} is missing, and the run was trained"
                " on rows without gaps\nfill the row, or train with data.missing=median"
            )
        return self.apply(features), frame[self.target].to_list() if self.target in frame.columns else None

    def predict_inputs(self, paths: Sequence[Path]) -> list[tuple[Tensor, list[Any] | None]]:
        """Batches of the rows of files: features (B, D), and what the column of targets says, None without one."""
        batches = []
        for path in paths:
            check_file(path, "in")
            features, words = self.read(str(path), "in")
            known: list[Any] | None = words
            if words is not None and self.classes is None:
                known = [_number(word) for word in words]
            for start in range(0, len(features), self.eval_batch_size):
                rows = slice(start, start + self.eval_batch_size)
                batches.append((features[rows].float(), None if known is None else known[rows]))
        return batches


def _number(word: str | None) -> float | str | None:
    try:
        return None if word is None else float(word)
    except ValueError:
        return word
