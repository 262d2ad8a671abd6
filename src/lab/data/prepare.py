"""Preparing a table for training: cleaning, splitting, filling gaps, standardising; each works on plain tensors.

Legend: N rows, D features. Targets are labels, (N,) whole numbers, or values, (N, 1) floats.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars
import torch
from torch import Tensor

from lab.engine.utils.errors import UserError


def clean(
    features: Tensor, targets: Tensor, missing: str = "median", duplicates: str = "drop"
) -> tuple[Tensor, Tensor, dict[str, int]]:
    """Drops the rows that cannot be used, and marks what is missing in the others as NaN.

    Args:
        features: (N, D) floats; NaN and infinities are missing.
        targets: labels, negative where missing, or values, NaN or infinite where missing. Such rows always go.
        missing: `drop` drops rows that lack a feature; `mean` and `median` keep them, for `gap_filler`.
        duplicates: `drop` keeps the first of rows that agree in every feature and in the target, `keep` keeps all.

    Returns:
        The features and targets of the rows left, in their order, and how many went of each kind: `row without a
        target`, `duplicate`, `row without all features`.

    Raises:
        UserError: when no row is left.
    """
    features = features.masked_fill(~features.isfinite(), torch.nan)
    counts = {}
    kept = (targets.isfinite() & (targets >= 0)) if _are_labels(targets) else targets.isfinite().all(1)  # (N,)
    counts["row without a target"] = int((~kept).sum())
    features, targets = features[kept], targets[kept]
    if duplicates == "drop":
        kept = _first_of_each(features, targets)
        counts["duplicate"] = int((~kept).sum())
        features, targets = features[kept], targets[kept]
    if missing == "drop":
        kept = features.isfinite().all(1)
        counts["row without all features"] = int((~kept).sum())
        features, targets = features[kept], targets[kept]
    if not len(features):
        raise UserError(f"missing={missing}: no row is left; missing=median fills gaps instead of dropping their rows")
    return features, targets, counts


def stratified_split(
    targets: Tensor, held_out: Mapping[str, int | float], generator: torch.Generator
) -> dict[str, Tensor]:
    """Deals the rows out at random; of every class each split gets its share, to within a row.

    Args:
        targets: labels; values are dealt out as one class.
        held_out: splits besides `train` and their sizes, rows where an int, a share of N where a float.
        generator: on the CPU.

    Returns:
        The rows of each split, ascending, those of `train` too.

    Raises:
        UserError: when a split, or `train`, would be empty.
    """
    sizes = {name: size if isinstance(size, int) else round(size * len(targets)) for name, size in held_out.items()}
    sizes["train"] = len(targets) - sum(sizes.values())
    for name, size in sizes.items():
        if size < 1:
            held = ", ".join(f"{name}={size}" for name, size in held_out.items())
            raise UserError(f"{len(targets)} rows with {held} leave none for {name}: change these, or get more rows")
    order = torch.randperm(len(targets), generator=generator)
    if _are_labels(targets):
        # Each class is spread evenly over [0, 1]: a stretch of that line then holds its share of every class.
        place = torch.empty(len(targets), dtype=torch.float64)
        for label in targets.unique():
            rows = order[targets[order] == label]
            place[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
        order = order[place[order].argsort(stable=True)]  # stable: the permutation breaks ties
    return {name: rows.sort().values for name, rows in zip(sizes, order.split(list(sizes.values())), strict=True)}


def gap_filler(features: Tensor, how: str) -> Tensor:
    """What stands in for a missing value of each column: its `mean` or `median` (D,), 0 where it has no value at all.

    Args:
        features: (N, D), NaN where missing; the training rows, so that nothing is learned from the others.
        how: `mean` or `median`, the mean of the middle two where their number is even.
    """
    present = features.isfinite().sum(0)  # (D,)
    if how == "mean":
        return features.nansum(0) / present.clamp(min=1)
    ascending = features.sort(0).values  # NaN comes last
    middle = torch.stack([(present - 1).clamp(min=0) // 2, present // 2])  # (2, D)
    middle = middle.clamp(max=len(features) - 1)
    return ascending.gather(0, middle).mean(0).nan_to_num(0.0)


@dataclass(frozen=True)
class Standardizer:
    """Moves and scales columns by fixed numbers: to mean 0 and variance 1 for the rows that it was fitted to.

    Args:
        mean: (D,)
        std: (D,), population standard deviation, 1 for constant columns, which become 0.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> "Standardizer":
        """The standardizer of (N, D) features without gaps: the training rows."""
        # Rounding leaves a constant column a tiny deviation, which would blow up noise: its range tells it apart.
        constant = features.amax(0) == features.amin(0)
        mean = torch.where(constant, features[0], features.mean(0))
        return cls(mean, features.std(0, correction=0).masked_fill(constant, 1.0))

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std

    def inverse(self, features: Tensor) -> Tensor:
        """Standardised features in their former units."""
        return features * self.std + self.mean


def _are_labels(targets: Tensor) -> bool:
    return not targets.is_floating_point()


def _first_of_each(features: Tensor, targets: Tensor) -> Tensor:
    """Marks (N,) the first of equal rows; missing values equal each other."""
    rows = polars.from_numpy(torch.cat([features, targets.view(len(targets), -1).to(features)], 1).numpy())
    first = rows.with_row_index("row").unique(subset=rows.columns, keep="first")["row"]
    kept = torch.zeros(len(features), dtype=torch.bool)
    kept[torch.from_numpy(first.to_numpy().astype("int64"))] = True
    return kept
