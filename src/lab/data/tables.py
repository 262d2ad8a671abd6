"""What tables share: rows of numbers, cleaned, split, filled and standardised by what the training rows say."""

import logging
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lab.data.prepare import Standardizer, clean, gap_filler, stratified_split
from lab.data.tensors import Batch, TensorDataModule, generator
from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import PositiveInt, Probability, Seed

log = logging.getLogger(__name__)


class TableDataModule(TensorDataModule):
    """Rows of D numbers: batches are features (B, D) with labels (B,) or values (B, 1).

    Prepared in float64 by the functions of `lab.data.prepare`; kept in float32, under `trainer.precision=64-true` in
    float64.

    Args:
        missing: what becomes of rows with a missing or infinite feature: `drop`, or filled in with the column's `mean`
            or `median` over the training rows. Rows without a target are dropped always.
        duplicates: `drop` leaves one of equal rows, before the split, so that none is trained on and tested on.
        standardize: scale every column to mean 0 and variance 1 over the training rows.
        seed: of the split, and of generated tables.
        **loading: see `TensorDataModule`.

    Attributes:
        standardizer: what `standardize` applied; None without it and before `setup`.
        filler: what stands in for a missing value of each column (D,); None where such rows are dropped, and before
            `setup`.
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
        self.standardizer: Standardizer | None = None
        self.filler: Tensor | None = None

    @property
    def preparation(self) -> dict[str, Any]:
        """What the training rows said, in plain numbers, words and lists: what a model needs to read other rows."""
        fitted = {"filler": self.filler}
        if self.standardizer is not None:
            fitted |= {"mean": self.standardizer.mean, "std": self.standardizer.std}
        return {name: None if value is None else value.tolist() for name, value in fitted.items()}

    def restore(self, preparation: dict[str, Any]) -> None:
        """Takes a `preparation` over: rows read from now on are prepared as it says, and not by what they say."""
        fitted = {
            name: torch.tensor(preparation[name], dtype=torch.float64)
            for name in ("filler", "mean", "std")
            if preparation.get(name) is not None
        }
        self.filler = fitted.get("filler")
        self.standardize = "mean" in fitted
        self.standardizer = Standardizer(fitted["mean"], fitted["std"]) if self.standardize else None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"preparation": self.preparation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.restore(state_dict["preparation"])

    def prepare(
        self, features: Tensor, targets: Tensor, held_out: Mapping[str, int | float], **more: Batch
    ) -> dict[str, Batch]:
        """Cleans, splits, fills gaps, standardises; says in one line of the log what it did.

        Args:
            features: (N, D) float64, NaN or infinite where missing.
            targets: (N,) labels, negative where missing, or (N, 1) values, NaN where missing.
            held_out: sizes of the splits besides `train`, see `stratified_split`.
            **more: splits that are neither cleaned nor dealt out, only filled and standardised like the rest.
        """
        total = len(features)
        features, targets, dropped = clean(features, targets, self.missing, self.duplicates)
        rows = stratified_split(targets, held_out, generator(self.seed, 2))
        splits = {name: (features[index], targets[index]) for name, index in rows.items()} | more
        gaps = sum(int(x.isnan().sum()) for x, _ in splits.values())
        if self.filler is None and self.missing != "drop":
            self.filler = gap_filler(splits["train"][0], self.missing)
        if self.standardize and self.standardizer is None:
            self.standardizer = Standardizer.fit(self._filled(splits["train"][0]))
        splits = {name: (self.apply(x), y) for name, (x, y) in splits.items()}
        self._tell(total, dropped, gaps, splits)
        dtype = torch.float64 if self.trainer and self.trainer.precision == "64-true" else torch.float32
        return {name: (x.to(dtype), y.to(dtype) if y.is_floating_point() else y) for name, (x, y) in splits.items()}

    def apply(self, features: Tensor) -> Tensor:
        """Fills the gaps (NaN) of features (N, D) in float64, and standardises them, as the training rows say."""
        features = self._filled(features)
        return self.standardizer(features) if self.standardizer else features

    def _filled(self, features: Tensor) -> Tensor:
        return features if self.filler is None else torch.where(features.isnan(), self.filler, features)

    def _tell(self, total: int, dropped: dict[str, int], gaps: int, splits: dict[str, Batch]) -> None:
        done = [_count(total, "row"), *(f"{_count(n, what)} dropped" for what, n in dropped.items() if n)]
        if gaps:
            done.append(f"{_count(gaps, 'missing value')} imputed by the {self.missing}")
        sizes = ", ".join(f"{name} {len(splits[name][0]):,}" for name in ("train", "val", "test"))
        log.info("prepared: %s; %s", ", ".join(done), sizes)


class GeneratedTable(TableDataModule):
    """A table drawn from a known distribution, in memory, so that the best that a model can reach is known.

    Args:
        num_features: D
        num_samples: rows to train on, validation included.
        num_val: rows held out for validation.
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
        num_val: PositiveInt = 2_000,
        num_test: PositiveInt = 10_000,
        dirty: Probability = 0.0,
        standardize: bool = False,
        eval_batch_size: PositiveInt = 10_000,
        **table: Any,
    ) -> None:
        super().__init__(standardize=standardize, eval_batch_size=eval_batch_size, **table)
        if num_val >= num_samples:
            raise UserError(f"num_val={num_val} is a part of num_samples={num_samples}, and leaves none to train on")
        self.num_features = num_features
        self.num_samples = num_samples
        self.num_val = num_val
        self.num_test = num_test
        self.dirty = dirty

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """`count` rows of the distribution: features (count, D), float64, and targets."""

    def load(self) -> dict[str, Batch]:
        features, targets = self.draw(self.num_samples + self.num_test, generator(self.seed, 0))
        n = self.num_samples
        rows = corrupt(features[:n], targets[:n], self.dirty, generator(self.seed, 1))
        return self.prepare(*rows, {"val": self.num_val}, test=(features[n:], targets[n:]))

    def test_rows(self) -> Batch:
        """The test split in float64, on the CPU, in the units that it was drawn in; after `setup`."""
        features, targets = (t.cpu() for t in self.splits["test"])
        features = features.double()
        return self.standardizer.inverse(features) if self.standardizer else features, targets


def corrupt(features: Tensor, targets: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Makes a `share` of (N, D) features missing or infinite, then adds copies of as large a share of the rows."""
    dirt = torch.tensor([torch.nan, torch.inf, -torch.inf]).to(features)
    hit = torch.rand(features.shape, generator=generator) < share
    kind = torch.randint(len(dirt), features.shape, generator=generator)
    features = torch.where(hit, dirt[kind], features)
    again = torch.randperm(len(features), generator=generator)[: round(share * len(features))]
    return torch.cat([features, features[again]]), torch.cat([targets, targets[again]])


def _count(number: int, what: str) -> str:
    """Such as `1 row`, `1,000 rows without a target`."""
    noun, without, rest = what.partition(" without ")
    return f"{number:,} {noun}{'s' * (number != 1)}{without}{rest}"
