"""What a command line changes, held against what it replaces."""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig

from lab.engine.config.checks import signatures
from lab.engine.config.checks.limits import CHOICES, check_limits
from lab.engine.config.checks.values import has_choices, misfit, plain, says_something, unlike
from lab.engine.config.compose import compose, get, leaves, options, parse
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

NAMED = ("callbacks", "logger", "paths", "dims")  # groups in which a key is a name that anyone may choose
LIGHTNINGS = (
    "scheduler.strict",
    "scheduler.name",
    "scheduler.reduce_on_plateau",
)  # no file has them, Lightning takes them


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuses what contradicts itself, adds what nobody reads, drops what a run needs, or is of another type.

    Raises:
        UserError: on the first thing that is wrong.
    """
    parsed = parse(overrides)
    check_groups(parsed)
    for override in parsed:
        if override.is_delete() and "." not in override.key_or_group:
            key = override.key_or_group
            raise UserError(f"~{key}: every run has one; `{key}=none` where --help lists it, or {key}.KEY=null")
    own = [o for o in parsed if not o.is_hydra_override()]  # Hydra types its own
    given = [o for o in own if not options(o.key_or_group) and not o.is_delete()]
    if not given:
        return
    defaults = compose([_first(o) for o in parsed if options(o.key_or_group) or o not in own])
    known = dict(leaves(defaults))
    for override in given:
        key = override.key_or_group
        if key not in known and (override.is_add() or override.is_force_add()):
            _check_new(key, defaults, known)
            continue
        for value in values(override):
            if (expected := mismatch(defaults, key, value)) is not None:
                default = get(defaults, key)
                like = "" if default is None else f", like its default {plain(default)}"
                raise UserError(f"{key}={value}: expected {expected}{like}")
            check_limits(key, value)


def _first(override: Override) -> str:
    """One choice of those that a sweep takes from a group; of a single run the one there is."""
    line = override.input_line or ""
    if not override.is_sweep_override():
        return line
    return f"{line.partition('=')[0]}={next(iter(override.sweep_string_iterator()), '')}"


def values(override: Override) -> Iterator[Any]:
    """What an override sets its key to: one value, or every one of a sweep."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        yield from (value.start, value.end)
    elif override.is_sweep_override() and override.is_discrete_sweep():
        for word in override.sweep_string_iterator():
            yield parse([f"x={word}"])[0].value()
    else:
        yield value


def mismatch(config: DictConfig, key: str, value: Any) -> str | None:
    """What `value` should have been to stand at `key` of a `config`, None where it fits.

    What the class says of its argument goes before what its default looks like: `trainer.devices=[0, 1]` may replace a
    number. Where it says nothing, numbers replace numbers, and lists lists.
    """
    if value is None and key == "dims":
        return "keys and their values"
    if value == "???" or (key, value) == ("trainer.deterministic", "warn"):
        return None
    above, _, name = key.rpartition(".")
    node = get(config, above) if above else None
    takes = signatures.read(str(node["_target_"])) if isinstance(node, DictConfig) and "_target_" in node else None
    kind = takes.kinds.get(name, Any) if takes else Any
    if says_something(kind):
        return None if has_choices(kind) else misfit(plain(value), kind)  # choices have an answer of their own
    if key in CHOICES and not isinstance(value, list):
        return None
    return unlike(get(config, key), value)


def check_groups(overrides: Sequence[Override]) -> None:
    """Refuses what is no choice of a group, and two from one group: Hydra would take the last, and say nothing.

    Raises:
        UserError: with the override, or with both.
    """
    made: dict[str, Any] = {}
    for override in overrides:
        if not options(override.key_or_group) or isinstance(override.value(), dict):  # the latter changes keys
            continue
        if not (override.is_delete() or override.is_sweep_override() or isinstance(override.value(), str | list)):
            raise UserError(f"{override.input_line}: expected the name of a choice; `--help` lists those of each group")
        group, value = override.key_or_group, str(override.value())
        if made.setdefault(group, value) != value:
            raise UserError(f"{group} is chosen twice: {group}={made[group]} and {group}={value}; leave one out")


def _check_new(key: str, defaults: DictConfig, known: dict[str, Any]) -> None:
    """A key that is added must be read by somebody: a class that takes it, or a group of named things."""
    parts = key.split(".")
    above = [get(defaults, ".".join(parts[:i])) for i in range(1, len(parts))]
    if any(isinstance(node, DictConfig) and "_target_" in node for node in above):
        return  # its arguments are checked
    if key in LIGHTNINGS:
        return
    if parts[0] not in NAMED or (len(parts) == 1 and not options(key)):
        raise UserError(
            f"+{key}: nobody reads this key{nearest(key, known)}\n`python src/train.py --cfg job` shows all"
        )
