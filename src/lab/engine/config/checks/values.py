"""Whether a value is of the type that is asked for, and what to say where it is not."""

import re
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "null"}


def plain(value: Any) -> Any:
    """`value` as a user would write it."""
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


def unlike(default: Any, value: Any) -> str | None:
    """What `value` should have been to replace `default`, None where it may: numbers by numbers, lists by lists.

    A default of null says nothing; null in place of something is for the class to judge.
    """
    value = plain(value)
    if default is None or value is None:
        return None if default is None or OmegaConf.is_config(default) else "a value"
    for kind in (bool, int, float):
        if isinstance(default, kind):
            return misfit(value, kind)
    if isinstance(default, ListConfig):
        kinds = {type(element) for element in default}
        # The elements of a list of numbers are numbers; words may stand for anything
        element = float if kinds == {int, float} else kinds.pop() if len(kinds) == 1 else Any
        return misfit(value, list[element if element in (int, float) else Any])  # type: ignore[misc]
    if isinstance(default, DictConfig):
        return misfit(value, dict)
    return "one value" if isinstance(value, dict | list) else None


def misfit(value: Any, kind: Any) -> str | None:
    """What `value` should have been to be of `kind`, None where it is.

    Args:
        value: of a config: null, a number, a word, a list or a mapping.
        kind: see `signatures.meaning`; whole numbers count as numbers, and numbers as words, since YAML
            cannot tell `target=2024` from a name. True and false are neither.
    """
    origin = get_origin(kind)
    if kind is Any or (isinstance(value, dict) and "_target_" in value):
        return None
    if origin in (Union, UnionType):
        every = [misfit(value, part) for part in get_args(kind)]
        return None if None in every else " or ".join(dict.fromkeys(filter(None, every)))
    if origin is Literal:
        allowed = get_args(kind)
        fits = any(value == one and type(value) is type(one) for one in allowed)
        return None if fits else f"one of {', '.join(map(str, allowed))}"
    if origin is list:
        element = get_args(kind)[0]
        said = "a list" if element is Any else f"a list of {words(element)}"
        fits = isinstance(value, list) and not any(misfit(one, element) for one in value)
        return None if fits else said
    if kind is dict:
        return None if isinstance(value, dict) else "a mapping of keys to values"
    taken: Any = {int: int, float: (int, float), str: (str, int, float)}.get(kind, kind)
    fits = isinstance(value, taken) and (kind is bool or not isinstance(value, bool))
    return None if fits else WORDS.get(kind, str(kind))


def says_something(kind: Any) -> bool:
    """Whether a type leaves something out: Any does not, alone or among others."""
    return kind is not Any and all(says_something(part) for part in _parts(kind))


def has_choices(kind: Any) -> bool:
    """Whether a type lists words, alone or among others."""
    return get_origin(kind) is Literal or any(has_choices(part) for part in _parts(kind))


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType, list) else ()


def words(kind: Any) -> str:
    """The plural of a type."""
    return {int: "whole numbers", float: "numbers", str: "words"}.get(kind, "values that fit")


def outside(value: float, interval: str) -> bool:
    """Whether `value` lies outside of an interval in the mathematicians' notation, such as `[0, 1)`."""
    match = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])", interval)
    assert match, interval
    low, high = float(match[2]), float(match[3])
    above = value >= low if match[1] == "[" else value > low
    below = value <= high if match[4] == "]" else value < high
    return not (above and below)  # so that NaN lies outside
