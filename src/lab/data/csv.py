"""A table of one's own: data=csv data.path=FILE data.target=COLUMN"""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from lab.data.files import read_table
from lab.data.module import Batch
from lab.data.tables import TableDataModule


class CSV(TableDataModule):
    """The rows of a CSV file: features (B, D), with labels (B,) or values (B, 1); see `lab.data.files.read_table`.

    Values keep their units. A model that needs them on a sane scale reads `target_scale`.

    Split and statistics are those of the file: a run that is evaluated on another `path` sees that file prepared by its
    own training rows.

    Args:
        path: of the file.
        target: name of the column to predict.
        task: `auto` means classification for words, booleans and whole numbers with at most 20 different values.
        drop: names of the columns to leave out.
        val_share: of the rows, held out for validation.
        test_share: of the rows, held out to test on.
        **table: see `TableDataModule`.

    Attributes:
        target_scale: mean and standard deviation of the training values, the latter 1 where all are equal; None for
            labels, and before `setup`.
    """

    target_scale: tuple[float, float] | None = None

    def __init__(
        self,
        path: str,
        target: str,
        task: Literal["auto", "classification", "regression"] = "auto",
        drop: Sequence[str] = (),
        val_share: float = 0.15,
        test_share: float = 0.15,
        **table: Any,
    ) -> None:
        super().__init__(**table)
        for name, share in (("val_share", val_share), ("test_share", test_share)):
            if not 0 < share < 1:
                raise ValueError(f"{name}={share} is no share: give a number between 0 and 1")
        if val_share + test_share >= 1:
            raise ValueError(f"val_share={val_share}, test_share={test_share}: nothing is left to train on")
        self.path = path
        self.target = str(target)
        self.task = task
        self.drop = [str(name) for name in drop]
        self.held_out = {"val": float(val_share), "test": float(test_share)}

    def load(self) -> dict[str, Batch]:
        table = read_table(self.path, self.target, self.task, self.drop)
        targets = torch.from_numpy(table.target)
        if table.classes is None:
            targets = targets.unsqueeze(1)  # (N,) -> (N, 1)
        splits = self.prepare(torch.from_numpy(table.features), targets, self.held_out)
        if table.classes is None:
            for name, (_, values) in splits.items():
                if len(values) < 2:
                    raise ValueError(f"{self.path}: its {name} part has one row, and R2 needs two: give more rows")
            values = splits["train"][1].double()
            self.target_scale = float(values.mean()), float(values.std(correction=0)) or 1.0
        return splits
