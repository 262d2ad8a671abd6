"""What a command line changes, held against what it replaces."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig

from lab.compose import compose, get, leaves, nearest, options
from lab.errors import UserError
from lab.limits import CHOICES, check_limits
from lab.values import plain, unlike

# What some fields of Trainer take besides the type of their default
ALSO: dict[str, tuple[Any, ...]] = {"trainer.deterministic": ("warn",), "trainer.fast_dev_run": (int,)}
NAMED = ("callbacks", "logger", "paths", "dims", "hydra")  # groups in which a key is a name that anyone may choose
LIGHTNINGS = (
    "scheduler.strict",
    "scheduler.name",
    "scheduler.reduce_on_plateau",
)  # no file has them, Lightning takes them
JOBS = 50  # of a sweep that are checked one by one


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuses what contradicts itself, adds what nobody reads, drops what a run needs, or is of another type.

    Raises:
        UserError: on the first thing that is wrong.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    _check_groups([o for o in parsed if options(o.key_or_group)])
    for override in parsed:
        if override.is_delete() and "." not in override.key_or_group:
            key = override.key_or_group
            raise UserError(f"~{key}: every run has one; `{key}=none` where --help lists it, or {key}.KEY=null")
    given = [o for o in parsed if not options(o.key_or_group) and not o.is_delete()]
    if not given:
        return
    defaults = compose([o.input_line or "" for o in parsed if options(o.key_or_group) and not o.is_sweep_override()])
    known = dict(leaves(defaults))
    for override in given:
        key = override.key_or_group
        if key.split(".")[0] == "hydra":
            continue  # Hydra's own are typed
        if key not in known and (override.is_add() or override.is_force_add()):
            _check_new(key, defaults, known)
            continue
        for value in values(override):
            default = get(defaults, key)
            if (expected := mismatch(key, default, value)) is not None:
                raise UserError(f"{key}={value}: expected {expected}, like its default {plain(default)}")
            check_limits(key, value)


def values(override: Override) -> Iterator[Any]:
    """What an override sets its key to: one value, or every one of a sweep."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        yield from (value.start, value.end)
    elif override.is_sweep_override() and override.is_discrete_sweep():
        for word in override.sweep_string_iterator():
            yield OverridesParser.create().parse_override(f"x={word}").value()
    else:
        yield value


def mismatch(key: str, default: Any, value: Any) -> str | None:
    """What `value` should have been to replace `default` at `key`, None where it fits."""
    if any(value == also or (isinstance(also, type) and isinstance(value, also)) for also in ALSO.get(key, ())):
        return None
    if key.startswith("trainer.") and (value is None or key in CHOICES):
        return None
    if key == "trainer.strategy" and isinstance(value, dict):
        return None
    return unlike(default, value)


def jobs(words: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep over lists of values, as overrides; of very many, so many that each value is in one."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    lists = []
    for override in parsed:
        swept = override.is_sweep_override()
        line = override.input_line or ""
        if swept and not override.is_discrete_sweep():
            continue  # a sweeper with ideas of its own draws from it, and each of its jobs is checked when it starts
        key = line.partition("=")[0]
        lists.append([f"{key}={word}" for word in override.sweep_string_iterator()] if swept else [line])
    total = 1
    for choices in lists:
        total *= len(choices)
    if total <= JOBS:
        return [list(job) for job in product(*lists)]
    first = [choices[0] for choices in lists]
    return [first] + [
        [*first[:i], choice, *first[i + 1 :]] for i, choices in enumerate(lists) for choice in choices[1 : JOBS + 1]
    ]


def _check_groups(chosen: Sequence[Override]) -> None:
    """Hydra would take the last of two choices from one group, and say nothing."""
    made: dict[str, Any] = {}
    for override in chosen:
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
