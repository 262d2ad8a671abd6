"""Serves tables of numbers: cleaned, split, imputed and standardised by statistics of the training rows."""

import logging
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lab.data.prepare import UNCHANGED, Preprocessor, clean, stratified_split
from lab.data.tensors import Batch, TensorDataModule, generator, sizes
from lab.engine.utils.ranges import CountOrShare, PositiveInt, Probability, Seed

log = logging.getLogger(__name__)


class TableDataModule(TensorDataModule):
    """Serves rows of D numbers: batches are features (B, D) with labels (B,) or values (B, 1).

    Prepared in float64 by the functions of `lab.data.prepare`; kept in float32, under `trainer.precision=64-true` in
    float64.

    Args:
        missing: what becomes of rows with a missing or infinite feature: `drop`, or imputed by the column's `mean` or
            `median` over the training rows. Rows without a target are dropped always.
        duplicates: `drop` leaves one of equal rows, before the split, so that none is trained on and tested on.
        standardize: scale every column to mean 0 and variance 1 over the training rows.
        seed: of the split, and of generated tables.
        **loading: see `TensorDataModule`.

    Attributes:
        preprocessor: what the training rows say of each column; leaves rows as they are before `setup`.
    """

    def __init__(
        self,
        missing: Literal["drop", "mean", "median"] = "median",
        duplicates: Literal["drop", "keep"] = "drop",
        standardize: bool = True,
        seed: Seed = 0,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.missing = missing
        self.duplicates = duplicates
        self.standardize = standardize
        self.seed = seed
        self.preprocessor = UNCHANGED

    @property
    def preparation(self) -> dict[str, Any]:
        found = {name: column.tolist() for name, column in vars(self.preprocessor).items()}
        return found | ({"fill": None} if self.preprocessor.fill.isnan().any() else {})

    def restore(self, preparation: dict[str, Any]) -> None:
        fitted = {name: preparation[name] for name in ("fill", "mean", "std")}
        if fitted["fill"] is None:
            fitted["fill"], self.missing = torch.nan, "drop"
        self.preprocessor = Preprocessor(*(torch.tensor(column, dtype=torch.float64) for column in fitted.values()))

    def prepare(
        self, features: Tensor, targets: Tensor, held_out: Mapping[str, int | float], **more: Batch
    ) -> dict[str, Batch]:
        """Cleans, splits, imputes and standardises rows, and logs in one line what it did.

        Args:
            features: (N, D) float64, NaN or infinite where missing.
            targets: (N,) labels, negative where missing, or (N, 1) values, NaN where missing.
            held_out: sizes of the splits besides `train`, see `stratified_split`.
            **more: splits that are neither cleaned nor dealt out, only imputed and standardised like the rest.
        """
        number = len(features)
        features, targets, dropped = clean(features, targets, self.missing, self.duplicates)
        rows = stratified_split(targets, held_out, generator(self.seed, 2))
        splits = {name: (features[index], targets[index]) for name, index in rows.items()} | more
        self.log_preparation(number, dropped, sum(int(x.isnan().sum()) for x, _ in splits.values()), splits)
        if self.preprocessor is UNCHANGED:
            self.preprocessor = Preprocessor.fit(splits["train"][0], self.missing, self.standardize)
        return {
            name: (self.preprocessor(x).to(self.dtype), y.to(self.dtype) if y.is_floating_point() else y)
            for name, (x, y) in splits.items()
        }

    @property
    def dtype(self) -> torch.dtype:
        """Returns the type of features and values."""
        return torch.float64 if self.trainer and self.trainer.precision == "64-true" else torch.float32

    def log_preparation(self, number: int, dropped: Mapping[str, int], gaps: int, splits: Mapping[str, Batch]) -> None:
        """Logs in one line what became of a number of rows."""
        done = [_count(number, "row"), *(f"{_count(n, what)} dropped" for what, n in dropped.items() if n)]
        if gaps:
            done.append(f"{_count(gaps, 'missing value')} imputed by the {self.missing}")
        parts = [f"{name} {len(splits[name][0]):,}" for name in ("train", "val", "test")]
        log.info("prepared: %s; %s", ", ".join(done), ", ".join(parts))


def _count(number: int, what: str) -> str:
    """Returns a count in words, such as `1 row` or `1,000 rows without a target`."""
    noun, without, rest = what.partition(" without ")
    return f"{number:,} {noun}{'s' * (number != 1)}{without}{rest}"


class GeneratedTable(TableDataModule):
    """Draws a table from a known distribution, so that the best that a model can reach is known.

    Args:
        num_features: D
        num_samples: rows to train on, validation included.
        num_val: rows held out for validation; a share where below 1.
        num_test: rows that come on top.
        dirty: share of the features that are made missing or infinite, and of rows that are there twice,
            all but the test rows, so that there is something to clean.
        standardize: see `TableDataModule`.
        eval_batch_size: rows of one evaluation batch on each rank.
        **table: see `TableDataModule`.
    """

    def __init__(
        self,
        num_features: PositiveInt = 20,
        num_samples: PositiveInt = 20_000,
        num_val: CountOrShare = 0.1,
        num_test: PositiveInt = 10_000,
        dirty: Probability = 0.0,
        standardize: bool = False,
        eval_batch_size: PositiveInt = 10_000,
        **table: Any,
    ) -> None:
        super().__init__(standardize=standardize, eval_batch_size=eval_batch_size, **table)
        self.sizes = sizes(num_samples, num_val, num_test)
        self.num_features = num_features
        self.dirty = dirty

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Draws rows of the distribution: features (count, D), float64, and targets."""

    def load(self) -> dict[str, Batch]:
        n = self.sizes["train"] + self.sizes["val"]
        features, targets = self.draw(n + self.sizes["test"], generator(self.seed, 0))
        rows = corrupt(features[:n], targets[:n], self.dirty, generator(self.seed, 1))
        return self.prepare(*rows, {"val": self.sizes["val"]}, test=(features[n:], targets[n:]))

    def test_rows(self) -> Batch:
        """Returns the test split in float64, on the CPU, in the units in which it was drawn; after `setup`."""
        features, targets = (t.cpu() for t in self.splits["test"])
        return self.preprocessor.inverse(features.double()), targets


def corrupt(features: Tensor, targets: Tensor, rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Makes features (N, D) missing or infinite at this rate, then repeats the same share of the rows."""
    broken = torch.tensor([torch.nan, torch.inf, -torch.inf]).to(features)
    hit = torch.rand(features.shape, generator=generator) < rate
    kind = torch.randint(len(broken), features.shape, generator=generator)
    features = torch.where(hit, broken[kind], features)
    again = torch.randperm(len(features), generator=generator)[: round(rate * len(features))]
    return torch.cat([features, features[again]]), torch.cat([targets, targets[again]])
