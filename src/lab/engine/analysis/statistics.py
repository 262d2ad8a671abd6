"""Computes means, intervals and paired tests.

Source: Student (1908); Holm (1979), section 3. `scipy.special` has the distribution, and takes a tenth of the time that
`scipy.stats` takes to import.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from lab.engine.utils.errors import UserError

EXTRA = "pip install -e .[report]"


@dataclass(frozen=True)
class Summary:
    """Holds the mean, the spread and the interval of several measurements of one metric."""

    n: int
    mean: float | None = None
    sd: float | None = None  # with n - 1; this and the next two are None below two measurements
    low: float | None = None  # end of the 95 % interval of the mean, by Student's t
    high: float | None = None  # its other end


@dataclass(frozen=True)
class Paired:
    """Holds the result of a paired t-test."""

    difference: float | None = None  # mean over the pairs
    pairs: int = 0
    p: float | None = None  # two-sided; None where there is too little to test
    untested: str | None = None  # why there is no p


def summarise(values: Sequence[float]) -> Summary:
    """Returns mean, standard deviation and interval of `values`; one that is not finite makes them nan."""
    n = len(values)
    if n < 2:
        return Summary(n, *values)
    if not all(map(math.isfinite, values)):
        return Summary(n, *[math.nan] * 4)
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = quantile(n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def paired(values: Sequence[float], others: Sequence[float]) -> Paired:
    """Tests whether `values` differ from `others`, pair by pair."""
    if not values:
        return Paired(untested="no seed in common")
    found = summarise([a - b for a, b in zip(values, others, strict=True)])
    n, mean, sd = found.n, found.mean, found.sd
    if mean is None or sd is None:
        return Paired(mean, n, untested="one seed in common: two are needed")
    if not math.isfinite(mean):
        return Paired(mean, n, untested="a figure is not finite")
    if sd <= 1e-12 * max(map(abs, (*values, *others))):  # what rounding leaves
        return Paired(mean, n, untested="every pair differs by the same")
    return Paired(mean, n, float(2 * _special().stdtr(n - 1, -abs(mean) / (sd / math.sqrt(n)))))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusts p-values for multiple tests, by Holm's method."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted


@cache
def quantile(df: int) -> float:
    """Returns the 97.5 % quantile of Student's t with `df` degrees of freedom."""
    return float(_special().stdtrit(df, 0.975))


def _special():  # type: ignore[no-untyped-def]
    try:
        from scipy import special  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(f"intervals and tests need scipy: {EXTRA}") from None
    return special
