"""Parses and checks constraints on trials: `cost/parameters <= 100000` on metrics, `model.width <= 4` on configs."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lab.engine.config.compose import get, leaves
from lab.engine.runs.run import Run
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

if TYPE_CHECKING:
    from optuna import Trial

COSTS = ["cost/epochs", "cost/parameters", "cost/seconds", "cost/steps"]
PATTERN = re.compile(r"\s*(?P<name>[^\s<>=]+)\s*(?P<sign><=|>=|<|>)\s*(?P<bound>[^\s<>=]+)\s*")
FIGURE = re.compile(r"(train|val|cost)[/_]")  # how a metric's name begins; no key of a config does
KEY = "hydra.sweeper.constraints"


@dataclass(frozen=True)
class Constraint:
    """Bounds a metric of a run, or a number of its config.

    Args:
        text: as it was written.
        name: a metric of `metrics.json`, or a key of the config.
        sign: <=, >=, < or >.
        bound: a number.
    """

    text: str
    name: str
    sign: str
    bound: float

    @property
    def is_early(self) -> bool:
        """Tells whether the constraint is about the config, and so can be checked before training."""
        return FIGURE.match(self.name) is None and "/" not in self.name

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Returns by how much `metrics` break the constraint: 0 or less if they do not, infinity for NaN.

        Args:
            metrics: of a finished run, or the `numbers` of a config. A missing one breaks nothing: a key of another
                model, or a metric that a pruned run does not have yet.
        """
        value = metrics.get(self.name)
        if value is None:
            return 0.0
        if math.isnan(value):
            return math.inf
        over = value - self.bound if "<" in self.sign else self.bound - value
        return over if over or "=" in self.sign else math.ulp(self.bound)  # the bound itself breaks < and >


def parse_constraints(texts: Any) -> list[Constraint]:
    """Parses `hydra.sweeper.constraints`.

    Raises:
        UserError: on the first that is none.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise UserError(f'{KEY}={texts}: expected a list, such as ["cost/parameters <= 100000"]')
    return [_parse(text) for text in texts]


def check_constraints(constraints: Iterable[Constraint], configs: Iterable[DictConfig]) -> None:
    """Refuses a constraint on a key that none of the jobs' `configs` has, or whose value is no number.

    Raises:
        UserError: with the nearest key.
    """
    early = [constraint for constraint in constraints if constraint.is_early]
    found: dict[str, Any] = {}
    for config in configs if early else ():
        found |= _values(config)
    known = [key for key, value in found.items() if _is_number(value)]
    for constraint in early:
        if constraint.name not in found:
            raise UserError(f"{KEY}: {constraint.text}: no such key{nearest(constraint.name, known)}")
        if constraint.name not in known:
            raise UserError(f"{KEY}: {constraint.text}: {constraint.name}={found[constraint.name]} is no number")


def constrain(trial: "Trial", constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> list[str]:
    """Records in the study by how much a trial breaks each of `constraints`, for the samplers.

    Returns:
        Those that it breaks.
    """
    known, broken = trial.constraints, []
    for constraint in constraints:
        violation = min(constraint.violation(metrics), 1e300)  # infinity is no JSON
        if constraint.text not in known:  # else it was noted before the sweep was stopped
            trial.set_constraint(constraint.text, violation)
        broken += [constraint.text] * (violation > 0)
    return broken


def numbers(config: DictConfig) -> dict[str, float]:
    """Returns the numbers of a composed config, by their keys."""
    return {key: value for key, value in _values(config).items() if _is_number(value)}


def find_broken(constraints: Sequence[Constraint], run: Run) -> list[Constraint]:
    """Returns the `constraints` that a finished run breaks; those on metrics that it does not have do not count."""
    early = any(constraint.is_early for constraint in constraints)  # resolving a config takes longer than all else
    known = {**(numbers(run.saved) if early else {}), **run.metrics}
    return [constraint for constraint in constraints if constraint.violation(known) > 0]


def _values(config: DictConfig) -> dict[str, Any]:
    return {key: get(config, key) for key, _ in leaves(config)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parse(text: Any) -> Constraint:
    match = PATTERN.fullmatch(str(text))
    try:
        bound = float(match["bound"]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or math.isnan(bound):
        raise UserError(f"{KEY}: {text}: expected NAME <= NUMBER, or <, >, >=")
    name = match["name"]
    stage = name.partition("/")[0]
    if "/" in name and (stage not in ("train", "val", "cost") or (stage == "cost" and name not in COSTS)):
        raise UserError(
            f"{KEY}: {text}: no such figure{nearest(name, COSTS)}; there are {', '.join(COSTS)},"
            " and those of train/ and val/"
        )
    return Constraint(str(text), name, match["sign"], bound)
