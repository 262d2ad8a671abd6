"""Finds the keys at which the configs of runs differ, written as on a command line: `lr=0.1 model=lenet`.

A choice such as `model=lenet` changes many keys. Where runs have different classes at a place of the config, that place
is what differs (`model`), and the keys below it are compared among runs of the same class only.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from lab.engine.analysis.run_record import RunRecord
from lab.engine.config.compose import options
from lab.engine.config.identity import ABSENT, comparable
from lab.engine.utils.files import read_yaml
from lab.engine.utils.paths import CONFIGS

DERIVED = ("dims", "objective")  # the data's and the model's own keys


def columns(runs: Sequence[RunRecord]) -> list[str]:
    """Returns the keys by which `runs`, one of each group, differ, as they are written on a command line.

    Those of the command lines come first; then as many others as it takes to distinguish all runs.
    """
    differing = list(dict.fromkeys(_differing([comparable(run.config) for run in runs])))
    if {"model", "data"} & set(differing):
        differing = [key for key in differing if key.split(".")[0] not in DERIVED]
    if len({_overrides_by_key(run).get("experiment") for run in runs}) > 1:
        differing.insert(0, "experiment")
    kept = [key for key in dict.fromkeys(key for run in runs for key in _overrides_by_key(run)) if key in differing]
    for key in differing:
        if key not in kept and _distinct(runs, [*kept, key]) > _distinct(runs, kept):
            kept.append(key)
    return kept


def value(run: RunRecord, key: str) -> Any:
    """Returns a run's value at a key: the name of the choice for a node with a class, ABSENT for no such key."""
    if key == "experiment":
        return _overrides_by_key(run).get(key, "none")
    node: Any = run.config
    for name in key.split("."):
        if not isinstance(node, dict) or name not in node:
            return ABSENT
        node = node[name]
    if target := _class(node, key):
        return _overrides_by_key(run).get(key) or _named(key, target)
    return "none" if node is None and options(key) else node


def text(found: Any) -> str:
    """Formats a value in few characters."""
    if found is ABSENT:
        return ""
    if isinstance(found, float):
        return f"{found:.6g}"
    if isinstance(found, bool | list | dict) or found is None:
        return json.dumps(found, separators=(",", ":"), default=str)
    return str(found)


def values_by_key(runs: Sequence[RunRecord], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the values of each of `runs` at `keys`.

    A key on which all runs of a class agree is left out for these runs: it was varied for another class.
    """
    found = [{key: one for key in keys if (one := value(run, key)) is not ABSENT} for run in runs]
    for key in keys:
        above = next((other for other in keys if key.startswith(f"{other}.")), None)
        if above is None:
            continue
        for choice in dict.fromkeys(text(one.get(above)) for one in found):
            alike = [one for one in found if text(one.get(above)) == choice and key in one]
            if len({text(one[key]) for one in alike}) == 1:
                for one in alike:
                    del one[key]
    return found


def label(values: dict[str, Any], keys: Sequence[str]) -> str:
    """Returns the values at `keys` as text, such as `lr=0.001 model=lenet`; keys are shortened where that is clear."""
    lasts = [key.rpartition(".")[2] for key in keys]
    pairs = [last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)]
    return " ".join(f"{word}={text(values[key])}" for word, key in zip(pairs, keys, strict=True) if key in values)


def _differing(nodes: Sequence[Any], key: str = "") -> Iterator[str]:
    """Yields the keys at which `nodes`, the values of several configs at `key`, differ."""
    inner = [node for node in nodes if isinstance(node, dict)]
    classes = dict.fromkeys(_class(node, key) for node in inner)
    others = {json.dumps(node, default=str) for node in nodes if not isinstance(node, dict)}
    if len(classes) + len(others) > 1:
        yield key
    for one in classes:
        alike = [node for node in inner if _class(node, key) == one]
        for name in dict.fromkeys(name for node in alike for name in node):
            yield from _differing([node.get(name, ABSENT) for node in alike], f"{key}.{name}".removeprefix("."))


def _distinct(runs: Sequence[RunRecord], keys: Sequence[str]) -> int:
    return len({tuple(text(value(run, key)) for key in keys) for run in runs})


def _overrides_by_key(run: RunRecord) -> dict[str, str]:
    """Returns the overrides of the command line by key; the last one of a key counts."""
    pairs = (word.lstrip("+~").partition("=") for word in run.overrides)
    return {key.partition("@")[0]: found for key, _, found in pairs}


def _class(node: Any, key: str) -> str | None:
    """Returns the class that the node at `key` names; a scheduler's is one level down."""
    if not isinstance(node, dict):
        return None
    return node.get("_target_") or (_class(node.get("scheduler"), "") if key == "scheduler" else None)


@cache
def _named(group: str, target: str) -> str:
    """Returns the choice of a config group that has this class; the class's own name where none has."""
    for path in sorted((CONFIGS / group).glob("*.yaml")):
        content = read_yaml(path) or {}
        if _class(content.get(group, content), group) == target:
            return path.stem
    return target.rpartition(".")[2]
