"""One value that a sweep varies: what it may be, and how it is drawn."""

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep, Transformer

from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

TAGS = ["log", "int"]


@dataclass(frozen=True)
class Parameter:
    """One value that a sweep varies.

    Args:
        key: where it stands in the config, or a group of it.
        word: the key as an override has it, with a `+` where it is added.
        text: its values as they were written.
        kind: what is drawn.
        low: the least number, itself included.
        high: the greatest one, itself included.
        step: between neighbours; None where there is any number between the two ends.
        log: whether the logarithm is what is spread evenly.
        is_interval: whether it was written as one.
        choices: what is drawn, as Optuna keeps it (a number as it is, all else as text), and the text that stands for
            it.
    """

    key: str
    word: str
    text: str
    kind: Literal["float", "int", "choice"]
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    is_interval: bool = False
    choices: dict[Any, str] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """How many values there are; infinite between the ends of an interval."""
        if self.kind == "choice":
            return len(self.choices)
        return math.inf if self.step is None else round((self.high - self.low) / self.step) + 1

    def values(self) -> list[Any]:
        """Every value there is, from the least to the greatest.

        Raises:
            UserError: of an interval.
        """
        if self.kind == "choice":
            return list(self.choices)
        if self.step is None:
            raise UserError(
                f"{self.key}={self.text} holds any number: a grid needs some, so write choice(…) or range(…)"
            )
        return [self._snap(self.low + i * self.step) for i in range(int(self.size))]

    def samples(self, most: int) -> list[str]:
        """Texts of all values; of an interval, or where there are more than `most`, those of the two ends."""
        if self.kind == "choice":
            return list(self.choices.values())
        return [str(value) for value in (self.values() if self.size <= most else (self.low, self.high))]

    def suggest(self, trial: "Trial") -> str:
        """Draws a value: the text that stands for it."""
        if self.kind == "choice":
            return self.choices[trial.suggest_categorical(self.key, list(self.choices))]
        if self.kind == "int":
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return str(trial.suggest_int(self.key, low, high, step=step, log=self.log))
        return str(self._snap(trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)))

    def distribution(self) -> "BaseDistribution":
        """What Optuna draws it from."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(list(self.choices))
        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high), self.log, int(self.step or 1))
        return FloatDistribution(self.low, self.high, self.log, self.step)

    def _snap(self, value: float) -> float:
        """The number as one would write it: 0.3, and not 0.30000000000000004."""
        if self.kind == "int":
            return round(value)
        if self.step is None:
            return value
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        return float(low + round((value - self.low) / self.step) * step)


def read(override: Override) -> Parameter:
    """What an override with several values varies.

    Raises:
        UserError: when nothing can be drawn from it.
    """
    value = override.value()
    tags = value.tags if isinstance(value, Sweep) else set()
    for tag in sorted(tags):
        if tag not in TAGS:
            raise UserError(f"{override.input_line}: no such tag: {tag}{nearest(tag, TAGS)}; there are log and int")
    key = override.key_or_group
    common: Any = {"key": key, "word": override.get_key_element(), "text": override.get_value_string()}
    if isinstance(value, IntervalSweep):
        return Parameter(**common, **_interval(value, override))
    if isinstance(value, RangeSweep):
        return Parameter(**common, **_range(value, override))
    if tags:
        raise UserError(f"{override.input_line}: {' and '.join(sorted(tags))} is for interval(…) and range(…)")
    choices: dict[Any, str] = {}
    elements = getattr(value, "list", None)  # as written: shuffled or not, Optuna draws any
    elements = list(override.sweep_iterator()) if elements is None else elements
    for element in elements:
        text = Transformer.str(element)
        plain = element if isinstance(element, int | float) and not isinstance(element, bool) else text
        if plain in choices:
            raise UserError(f"{override.input_line}: {text} stands there twice")
        choices[plain] = text
    if not choices:
        raise UserError(f"{override.input_line}: nothing to choose from")
    return Parameter(**common, kind="choice", choices=choices)


def _interval(value: IntervalSweep, override: Override) -> dict[str, Any]:
    line, low, high = override.input_line, value.start, value.end
    assert low is not None
    assert high is not None
    whole = "int" in value.tags or isinstance(low, int)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{line}: expected two numbers that are finite")
    if low >= high:
        remedy = f"write interval({high:g}, {low:g})" if low > high else f"write {override.key_or_group}={low:g}"
        raise UserError(f"{line}: this interval is empty: {remedy}")
    if whole and (low % 1 or high % 1):
        raise UserError(f"{line}: expected whole numbers as its ends")
    if "log" in value.tags and low <= 0:
        raise UserError(f"{line}: a logarithm needs numbers above 0, and the interval begins at {low:g}")
    ends: dict[str, Any] = {"low": low, "high": high, "log": "log" in value.tags, "is_interval": True, "kind": "float"}
    return ends | {"low": int(low), "high": int(high), "kind": "int", "step": 1} if whole else ends


def _range(value: RangeSweep, override: Override) -> dict[str, Any]:
    """The last value is the one before `stop`, as in Python and in Hydra's own sweeps."""
    line, whole = override.input_line, all(isinstance(x, int) for x in (value.start, value.stop, value.step))
    start, stop, step = (Decimal(str(number)) for number in (value.start, value.stop, value.step))
    if not (start.is_finite() and stop.is_finite() and step.is_finite()):
        raise UserError(f"{line}: expected numbers that are finite")
    if not step:
        raise UserError(f"{line}: a step of 0 leads nowhere")
    count = math.ceil((stop - start) / step)
    if count < 1:
        away = "" if start == stop else f": a step of {step} leads away from {stop}"
        raise UserError(f"{line}: nothing to sweep over{away}")
    if "int" in value.tags and not whole:
        raise UserError(f"{line}: expected whole numbers")
    low, high = sorted([start, start + (count - 1) * step])
    if "log" in value.tags and (low <= 0 or not whole or abs(step) != 1):
        raise UserError(f"{line}: log is for a range of whole numbers above 0, one apart")
    number: Any = int if whole else float
    kind = "int" if whole else "float"
    return {
        "low": number(low),
        "high": number(high),
        "step": number(abs(step)),
        "log": "log" in value.tags,
        "kind": kind,
    }
