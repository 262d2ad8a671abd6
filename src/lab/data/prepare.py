"""Cleans, splits, imputes and standardises tables, given as plain tensors.

Legend: N rows, D features. Targets are labels, (N,) whole numbers, or values, (N, 1) floats.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from lab.engine.utils.errors import UserError

NONE_LEFT = "missing={}: no row is left; missing=median fills gaps instead of dropping their rows"


def clean(
    features: Tensor, targets: Tensor, missing: str = "median", duplicates: str = "drop"
) -> tuple[Tensor, Tensor, dict[str, int]]:
    """Drops the rows that cannot be used, and marks what is missing in the others as NaN.

    Args:
        features: (N, D) floats; NaN and infinities are missing.
        targets: labels, negative where missing, or values, NaN or infinite where missing. Such rows always go.
        missing: `drop` drops rows that lack a feature; `mean` and `median` keep them, to be imputed.
        duplicates: `drop` keeps the first of rows that agree in every feature and in the target, `keep` keeps all.

    Returns:
        The features and targets of the rows left, in their order, and how many went of each kind: `row without a
        target`, `duplicate`, `row without all features`.

    Raises:
        UserError: when no row is left.
    """
    values = targets.view(len(targets), 1).to(features)
    if not targets.is_floating_point():
        values = values.masked_fill(values < 0, torch.nan)
    table = pl.from_numpy(torch.cat([features, values], 1).numpy())  # (N, D + 1)
    target = table.columns[-1]
    table = table.select(pl.when(pl.all().is_finite()).then(pl.all()))
    reasons = {
        "row without a target": pl.col(target).is_null(),
        "duplicate": pl.lit(duplicates == "drop") & ~pl.struct(pl.all()).is_first_distinct(),
        "row without all features": pl.lit(missing == "drop") & pl.any_horizontal(pl.exclude(target).is_null()),
    }
    found = table.select(
        pl.coalesce(pl.when(is_so).then(pl.lit(reason)) for reason, is_so in reasons.items())
    ).to_series()
    kept = torch.from_numpy(found.is_null().to_numpy(writable=True))  # (N,)
    if not kept.any():
        raise UserError(NONE_LEFT.format(missing))
    features = features.masked_fill(~features.isfinite(), torch.nan)
    return features[kept], targets[kept], {reason: int((found == reason).sum()) for reason in reasons}


def stratified_split(
    targets: Tensor, held_out: Mapping[str, int | float], generator: torch.Generator
) -> dict[str, Tensor]:
    """Splits the rows at random; each split gets its share of every class, to within a row.

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
    if not targets.is_floating_point():
        # Each class is spread evenly over [0, 1]: a stretch of that line then holds its share of every class.
        place = ((pl.int_range(pl.len()) + 0.5) / pl.len()).over("label")
        table = pl.DataFrame({"row": order.numpy(), "label": targets[order].numpy()})
        order = table.sort(place, maintain_order=True)["row"].to_torch()  # the permutation breaks ties
    return {name: rows.sort().values for name, rows in zip(sizes, order.split(list(sizes.values())), strict=True)}


@dataclass(frozen=True)
class Preprocessor:
    """Imputes and standardises columns by fixed numbers, one for each column or for all.

    Args:
        fill: (D,) or (), takes the place of a missing value; NaN leaves it missing.
        mean: (D,) or (), is taken off.
        std: (D,) or (), what is left is divided by.
    """

    fill: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, features: Tensor, missing: str, standardize: bool) -> "Preprocessor":
        """Learns from the training rows.

        Args:
            features: (N, D) in float64, NaN where missing.
            missing: `mean` and `median` fill gaps with that of the column, 0 where it has no value; `drop` leaves them.
            standardize: scale to mean 0 and variance 1 (of the population); constant columns become 0.
        """
        fill, mean, std = torch.tensor([torch.nan, 0.0, 1.0]).to(features)
        if missing == "mean":
            fill = features.nanmean(0).nan_to_num(0.0)
        elif missing == "median":
            medians = pl.from_numpy(features.numpy()).fill_nan(None).median().fill_null(0.0)
            fill = torch.tensor(medians.row(0), dtype=features.dtype)
        if standardize:
            filled = torch.where(features.isnan(), fill, features)
            # Rounding leaves a constant column a tiny deviation, which would blow up noise: its range tells it apart.
            constant = filled.amax(0) == filled.amin(0)
            mean = torch.where(constant, filled[0], filled.mean(0))
            std = filled.std(0, correction=0).masked_fill(constant, 1.0)
        return cls(fill, mean, std)

    def __call__(self, features: Tensor) -> Tensor:
        """Prepares features (N, D), NaN or infinite where missing."""
        return (torch.where(features.isfinite(), features, self.fill) - self.mean) / self.std

    def inverse(self, features: Tensor) -> Tensor:
        """Returns standardised features in their former units."""
        return features * self.std + self.mean


UNCHANGED = Preprocessor(*torch.tensor([torch.nan, 0.0, 1.0]))
