"""Parses the search space of a sweep: the values of each key, and which keys depend on the choice of another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override, Transformer

from lab.engine.config.compose import parse
from lab.engine.sweeps.parameter import Parameter, read_parameter
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

if TYPE_CHECKING:
    from optuna import Trial

WHEN = "hydra.sweeper.when"
MANY = 100_000  # values that something may depend on


@dataclass(frozen=True)
class Condition:
    """Requires that another key has one of some values, for a key to be drawn.

    Args:
        key: the other one.
        texts: its values, as overrides have them.
    """

    key: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """Holds the search space of a sweep.

    Args:
        fixed: overrides that do not vary.
        parameters: by key; one that depends on another stands after it.
        conditions: of the keys that are not always drawn.
    """

    fixed: list[str]
    parameters: dict[str, Parameter]
    conditions: dict[str, Condition]

    @classmethod
    def parse(
        cls, overrides: Sequence[str], params: Mapping[str, Any] | None = None, when: Mapping[str, Any] | None = None
    ) -> "Space":
        """Parses the space of a command line.

        Args:
            overrides: some with several values; they go before what `params` says of the same key.
            params: texts by key, as `hydra.sweeper.params` has them; a list is a choice of its elements.
            when: for a key that is not always drawn, what it depends on: `model=mlp,lenet`.

        Raises:
            UserError: on the first thing that is wrong.
        """
        from_file = parse(params_to_overrides(params or {}))
        parsed = {o.get_key_element().lstrip("+"): o for o in [*from_file, *parse(overrides)]}
        fixed = {key: o for key, o in parsed.items() if not o.is_sweep_override()}
        parameters = {key: read_parameter(o) for key, o in parsed.items() if o.is_sweep_override()}
        # A command line may narrow a file's choices, which its conditions still name
        named = {key: set(p.samples(MANY)) for key, p in parameters.items()}
        for o in from_file:
            if o.is_sweep_override():
                named.setdefault(o.key_or_group, set()).update(read_parameter(o).samples(MANY))
        conditions = {key: _condition(key, text, parameters, fixed, named) for key, text in (when or {}).items()}
        for key in conditions:
            if key not in parameters:  # one value, which not all jobs have
                parameters[key] = _single(fixed.pop(key))
        ordered: dict[str, Parameter] = {}
        left: dict[str, Condition] = {}
        for key in _sort(parameters, conditions):
            condition = conditions.get(key)
            if condition is None:
                ordered[key] = parameters[key]
            elif condition.key in ordered:
                if set(condition.texts) & set(ordered[condition.key].samples(MANY)):
                    ordered[key], left[key] = parameters[key], condition
            elif condition.key in fixed and _text(fixed[condition.key]) in condition.texts:
                ordered[key] = parameters[key]  # so it is always drawn, and else never
        return cls([o.input_line or "" for o in fixed.values()], ordered, left)

    def draws(self, key: str, drawn: Mapping[str, str]) -> bool:
        """Tells whether `key` is drawn, given the texts of the keys `drawn` so far."""
        condition = self.conditions.get(key)
        return condition is None or drawn.get(condition.key) in condition.texts

    def suggest(self, trial: "Trial") -> list[str]:
        """Draws the overrides of one trial, without the `fixed` ones and those whose condition is not met."""
        drawn: dict[str, str] = {}
        for key, parameter in self.parameters.items():
            if self.draws(key, drawn):
                drawn[key] = parameter.suggest(trial)
        return self.to_overrides(drawn)

    def to_overrides(self, drawn: Mapping[str, str]) -> list[str]:
        """Returns the overrides that set the keys of `drawn` to their texts."""
        return [f"{self.parameters[key].override_key}={text}" for key, text in drawn.items()]

    def grid(self) -> dict[str, list[Any]]:
        """Returns all values of each key, as Optuna stores them.

        Raises:
            UserError: when there is no end of them, or some do not go with others.
        """
        for key, condition in self.conditions.items():
            raise UserError(
                f"{key} depends on {condition.key}, and a grid would train the same run again for each of its values:"
                " hydra/sweeper/sampler=random or tpe"
            )
        return {key: parameter.values() for key, parameter in self.parameters.items()}


def params_to_overrides(params: Mapping[str, Any]) -> list[str]:
    """Returns `hydra.sweeper.params` as overrides: texts unchanged, lists as a choice of their elements.

    Raises:
        UserError: for a mapping, which is a key in two parts.
    """
    overrides = []
    for key, value in params.items():
        if isinstance(value, Mapping):
            name = next(iter(value), "KEY")
            raise UserError(f"hydra.sweeper.params.{key} holds keys: write each as one, {key}.{name}: …")
        if isinstance(value, list):
            texts = ",".join(map(Transformer.str, value))
            value = texts if len(value) > 1 else f"choice({texts})"  # choice() takes no null
        overrides.append(f"{key}={value if isinstance(value, str) else Transformer.str(value)}")
    return overrides


def _text(override: Override) -> str:
    return "" if override.is_delete() else override.get_value_element_as_str()


def _single(override: Override) -> Parameter:
    text = _text(override)
    return Parameter(override.key_or_group, override.get_key_element(), text, choices={text: text})


def _condition(
    key: str,
    text: Any,
    parameters: Mapping[str, Parameter],
    fixed: Mapping[str, Override],
    named: Mapping[str, set[str]],
) -> Condition:
    line = f"{WHEN}.{key}={text}"
    if key not in parameters and key not in fixed:
        raise UserError(f"{line}: this sweep draws no {key}{nearest(key, parameters)}")
    if not isinstance(text, str) or "=" not in text:
        raise UserError(f"{line}: expected a key and its values, such as model=mlp,lenet")
    override = parse([text])[0]
    on = override.key_or_group
    if on not in parameters and on not in fixed:
        known = [*parameters, *fixed]
        raise UserError(f"{line}: this sweep neither draws nor sets {on}{nearest(on, known)}; give {on}=…")
    if override.is_sweep_override() and not override.is_discrete_sweep():
        raise UserError(f"{line}: expected some values, and this interval holds any")
    texts = tuple(override.sweep_string_iterator()) if override.is_sweep_override() else (_text(override),)
    if on in parameters:
        parent = parameters[on]
        if parent.is_continuous:
            raise UserError(f"{line}: {on}={parent.text} holds any number, and nothing can depend on one of them")
        for value in texts:
            if value not in named[on]:
                raise UserError(f"{line}: {on}={parent.text} has no {value}{nearest(value, named[on])}")
    return Condition(on, texts)


def _sort(parameters: Mapping[str, Parameter], conditions: Mapping[str, Condition]) -> list[str]:
    """Sorts the keys, each after the one that it depends on."""
    needs = {key: {conditions[key].key} & {*parameters} if key in conditions else set() for key in parameters}
    try:
        return list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise UserError(f"{WHEN}: a circle, {' on '.join(error.args[1])}: one of them must be drawn first") from None
