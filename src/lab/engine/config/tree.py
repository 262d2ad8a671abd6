"""Walks over the values of a config, plain or OmegaConf's."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException


def values(node: Any, key: str = "", names: Iterable[Any] | None = None) -> Iterator[tuple[str, Any]]:
    """Yields every leaf of a tree with its full key: plain values, and empty dictionaries and lists.

    Follows OmegaConf's interpolations; the error of one that cannot be resolved takes the place of its value.

    Args:
        node: a dictionary or a list.
        key: the key of `node`.
        names: those to look at in `node` itself; all by default.
    """
    is_mapping = isinstance(node, dict | DictConfig)
    if names is None:
        names = list(node) if is_mapping else range(len(node))
    for name in names:
        inner = f"{key}[{name}]" if not is_mapping else f"{key}.{name}" if key else str(name)
        try:
            value = node[name]
        except OmegaConfBaseException as error:
            value = error
        if isinstance(value, dict | list | DictConfig | ListConfig) and value:
            yield from values(value, inner)
        else:
            yield inner, value


def map_strings(node: Any, function: Callable[[str], Any]) -> Any:
    """Returns a copy of plain dictionaries and lists with `function` applied to their strings."""
    if isinstance(node, dict):
        return {key: map_strings(value, function) for key, value in node.items()}
    if isinstance(node, list):
        return [map_strings(value, function) for value in node]
    return function(node) if isinstance(node, str) else node


def is_under(key: str, above: Iterable[str]) -> bool:
    """Tells whether a key is one of those `above`, or below one."""
    return any(f"{key}.".replace("[", ".").startswith(f"{name}.") for name in above)
