"""Parses one parameter of a sweep, and draws its values."""

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep, Transformer

from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

if TYPE_CHECKING:
    from optuna import Trial

TAGS = ["log", "int"]


@dataclass(frozen=True)
class Parameter:
    """Holds the values of one key: either `choices`, or the numbers from `low` to `high`, integers if these are.

    Args:
        key: where it stands in the config, or a group of it.
        override_key: the key as an override has it, with a `+` where it is added.
        text: its values as they were written.
        choices: what Optuna keeps of each (a number as it is, all else as text), and the text that stands for it.
        low: the least number, itself included.
        high: the greatest one, itself included.
        step: between neighbours; None where there is any number between the two ends.
        log: whether the logarithm is what is spread evenly.
        is_interval: whether it was written as one.
    """

    key: str
    override_key: str
    text: str
    choices: dict[Any, str] = field(default_factory=dict)
    low: int | float = 0
    high: int | float = 0
    step: int | float | None = None
    log: bool = False
    is_interval: bool = False

    @property
    def is_continuous(self) -> bool:
        return not self.choices and self.step is None

    def values(self) -> list[Any]:
        """Returns all values, from the least to the greatest.

        Raises:
            UserError: of an interval.
        """
        if self.is_continuous:
            raise UserError(
                f"{self.key}={self.text} holds any number: a grid needs some, so write choice(…) or range(…)"
            )
        return list(self.choices) or [self._number(i) for i in range(self._last() + 1)]

    def samples(self, most: int) -> list[str]:
        """Returns the texts of all values; for an interval, or more than `most` numbers, those of the two ends."""
        if self.choices:
            return list(self.choices.values())
        every = not self.is_continuous and self._last() < most
        return [str(value) for value in (self.values() if every else (self.low, self.high))]

    def suggest(self, trial: "Trial") -> str:
        """Draws a value, and returns its text."""
        if self.choices:
            return self.choices[trial.suggest_categorical(self.key, list(self.choices))]
        if isinstance(self.low, int):
            low, high, step = self.low, int(self.high), int(self.step or 1)
            return str(trial.suggest_int(self.key, low, high, step=step, log=self.log))
        value = trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)
        return str(value if self.step is None else self._number(round((value - self.low) / self.step)))

    def _last(self) -> int:
        assert self.step is not None
        return round((self.high - self.low) / self.step)

    def _number(self, index: int) -> int | float:
        """Returns a number of a range, rounded as one would write it: 0.3, not 0.30000000000000004."""
        return type(self.low)(Decimal(str(self.low)) + index * Decimal(str(self.step)))


def read_parameter(override: Override) -> Parameter:
    """Parses an override with several values.

    Raises:
        UserError: when nothing can be drawn from it.
    """
    value = override.value()
    tags = value.tags if isinstance(value, Sweep) else set()
    try:
        for tag in sorted(tags - {*TAGS}):
            raise ValueError(f"no such tag: {tag}{nearest(tag, TAGS)}; there are log and int")
        if isinstance(value, IntervalSweep):
            values = _interval(value, override.key_or_group)
        elif isinstance(value, RangeSweep):
            values = _range(value)
        elif tags:
            raise ValueError(f"{' and '.join(sorted(tags))} is for interval(…) and range(…)")
        else:
            values = {"choices": _choices(override)}
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error}") from None
    return Parameter(override.key_or_group, override.get_key_element(), override.get_value_string(), **values)


def _choices(override: Override) -> dict[Any, str]:
    elements = getattr(override.value(), "list", None)  # as written: shuffled or not, Optuna draws any
    choices: dict[Any, str] = {}
    for element in override.sweep_iterator() if elements is None else elements:
        text = Transformer.str(element)
        value = element if isinstance(element, int | float) and not isinstance(element, bool) else text
        if value in choices:
            raise ValueError(f"{text} stands there twice")
        choices[value] = text
    if not choices:
        raise ValueError("nothing to choose from")
    return choices


def _interval(sweep: IntervalSweep, key: str) -> dict[str, Any]:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("expected two finite numbers")
    if low >= high:
        remedy = f"interval({high:g}, {low:g})" if low > high else f"{key}={low:g}"
        raise ValueError(f"this interval is empty: write {remedy}")
    if log and low <= 0:
        raise ValueError(f"a logarithm needs numbers above 0, and the interval begins at {low:g}")
    if "int" not in sweep.tags and not isinstance(low, int):
        return {"low": low, "high": high, "log": log, "is_interval": True}
    if low % 1 or high % 1:
        raise ValueError("expected whole numbers as its ends")
    return {"low": int(low), "high": int(high), "step": 1, "log": log, "is_interval": True}


def _range(sweep: RangeSweep) -> dict[str, Any]:
    """Parses a range, which excludes `stop`, as in Python and in Hydra's own sweeps."""
    ends, log = (sweep.start, sweep.stop, sweep.step), "log" in sweep.tags
    start, stop, step = (Decimal(str(number)) for number in ends)
    if not (start.is_finite() and stop.is_finite() and step.is_finite()):
        raise ValueError("expected finite numbers")
    count = math.ceil((stop - start) / step) if step else 0
    if count < 1:
        raise ValueError(f"nothing to sweep over: no step of {step} leads from {start} to {stop}")
    number: Any = int if all(isinstance(end, int) for end in ends) else float
    if "int" in sweep.tags and number is float:
        raise ValueError("expected whole numbers")
    low, high = sorted([start, start + (count - 1) * step])
    if log and (low <= 0 or number is float or abs(step) != 1):
        raise ValueError("log is for a range of whole numbers above 0, one apart")
    return {"low": number(low), "high": number(high), "step": number(abs(step)), "log": log}
