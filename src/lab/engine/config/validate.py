"""Judges a composed config, whatever brought it: nothing of it is built, and torch is loaded only for new classes."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.engine.config.arguments import UNKNOWN, check_arguments
from lab.engine.config.compose import get, leaves
from lab.engine.config.composition_errors import behind, causes
from lab.engine.config.instantiate import authorize_names, locate
from lab.engine.config.rules import RULES
from lab.engine.config.run_config import NODES
from lab.engine.config.schema_cache import cached_schema, full_name, is_outdated, renew
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import check_file, read_yaml
from lab.engine.utils.names import nearest
from lab.engine.utils.paths import CONFIGS

Node = dict[str, Any]


def validate(cfg: DictConfig) -> None:
    """Holds a config against what its classes take, what its data offers, what goes together and what this machine has.

    Args:
        cfg: the whole config of a run, without its `hydra` node.

    Raises:
        UserError: on the first thing that is wrong.
    """
    authorize_names(cfg)
    if missing := [key for key, value in leaves(cfg) if value == "???"]:
        raise UserError(f"{missing[0]} has no value: give one, {missing[0]}=…")
    check_nodes(plain_nodes(cfg))
    check_interpolations(cfg)
    check_nodes(nodes(cfg, literal=True))  # a wrong value is told by its own key, and not by one that reads it
    if isinstance(path := cfg.data.get("path"), str):
        check_file(Path(path))  # before dims, which may be read from it
    check_dims(cfg)
    check_nodes(nodes(cfg))
    for rule in RULES:
        rule(cfg)


def check_nodes(found: Iterable[tuple[str, Node]], allowed: Sequence[str] | None = None) -> None:
    """Holds nodes against the schemas of their classes; a class that changed since it was read is imported, last.

    Args:
        found: keys and nodes with a `_target_`.
        allowed: see `instantiate.locate`.
    """
    changed: list[tuple[str, Node]] = []
    for key, node in found:
        schema = cached_schema(node["_target_"])
        if schema is None:
            changed.append((key, node))
            continue
        try:
            check_arguments(key, node, schema)
        except UserError:
            if not is_outdated(node["_target_"]):
                raise
            changed.append((key, node))
    if changed:
        schemas = renew({node["_target_"]: _class(key, node["_target_"], allowed) for key, node in changed})
        for key, node in changed:
            check_arguments(key, node, schemas[node["_target_"]])


def _class(key: str, target: str, allowed: Sequence[str] | None) -> Any:
    try:
        return next((f for f in NODES.values() if full_name(f) == target), None) or locate(target, allowed)
    except UserError as error:
        raise UserError(f"{key}.{error}") from error


def nodes(node: DictConfig, prefix: str = "", literal: bool = False) -> Iterator[tuple[str, Node]]:
    """Yields every node below that is built, by its key, interpolations resolved; or left out, with `literal`."""
    if not prefix:
        built = [(name, node.get(name)) for name in ("data", "model", "optimizer", "trainer")]
        built += [
            (f"{name}.{key!s}", one) for name in ("callbacks", "logger") for key, one in (node[name] or {}).items()
        ]
        for key, one in built:
            if one is not None and not (isinstance(one, DictConfig) and "_target_" in one):
                raise UserError(f"{key} has no _target_, the class that it is built from")
    if "_target_" in node:
        yield prefix, {str(name): _value(node, name, f"{prefix}.{name!s}", literal) for name in node}
    for name in map(str, node):
        child = None if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name) else node[name]
        if isinstance(child, DictConfig):
            yield from nodes(child, f"{prefix}.{name}" if prefix else name, literal)


def _value(node: DictConfig, name: Any, key: str, literal: bool) -> Any:
    return UNKNOWN if literal and OmegaConf.is_interpolation(node, name) else resolved(node, name, key)


def resolved(node: DictConfig, name: Any, key: str) -> Any:
    """Returns a value as plain Python; `UNKNOWN` where it depends on a run that has not begun.

    Raises:
        UserError: for an interpolation of what is not there.
    """
    try:
        value = node[name]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        *_, root = causes(error)
        if told := behind(error, UserError):
            raise told from None
        if "HydraConfig" in str(root):  # it knows the job when there is one
            return UNKNOWN
        raise UserError(f"{key}: {str(root).partition(chr(10))[0]}") from error


def plain_nodes(cfg: DictConfig) -> Iterator[tuple[str, Node]]:
    """Yields the nodes that are no class's, each as if the function that says what it holds were its `_target_`."""
    for key, function in NODES.items():
        node = OmegaConf.select(cfg, key) if key else cfg
        if isinstance(node, DictConfig):
            inner = {str(name): _shallow(node, str(name), f"{key}.{name!s}".lstrip(".")) for name in node}
            yield key, {**inner, "_target_": full_name(function)}


def _shallow(node: DictConfig, name: str, key: str) -> Any:
    is_interpolation = OmegaConf.is_interpolation(node, name)
    if key == "dims" and is_interpolation:  # read from a file, once the data is known to be right
        return UNKNOWN
    return {} if not is_interpolation and OmegaConf.is_dict(node[name]) else resolved(node, name, key)


def check_interpolations(cfg: DictConfig) -> None:
    """Refuses an interpolation of a key that is not there."""
    every = dict(leaves(cfg))
    for key, value in every.items():
        for name in re.findall(r"\$\{([A-Za-z_][\w.]*)\}", value) if isinstance(value, str) else ():
            if name not in every and not name.startswith("dims.") and get(cfg, name) is None:
                raise UserError(f"{key}={value}: no such key as {name}{nearest(name, every)}")


def check_dims(cfg: DictConfig) -> None:
    """Refuses a model that reads of `dims` what the data does not offer."""
    needs, offers = _needs(OmegaConf.to_container(cfg.model, resolve=False)), set(cfg.dims)
    if lacking := sorted(needs - offers):
        models, datasets = _files("model"), _files("data")
        model, data = (_choice(group, cfg[group]._target_) for group in ("model", "data"))
        fitting_data = [name for name, other in datasets.items() if needs <= _offers(other)]
        fitting_models = [name for name, other in models.items() if _needs(other["model"]) <= offers]
        raise UserError(
            f"model={model} does not fit data={data}: it needs dims.{', dims.'.join(lacking)},"
            f" and the data offers {', '.join(cfg.dims)}\n"
            f"data that fits {model}: {', '.join(fitting_data) or 'none'}\n"
            f"models that fit {data}: {', '.join(fitting_models) or 'none'}"
        )


def _needs(model: Any) -> set[str]:
    return set(re.findall(r"\$\{dims\.(\w+)", str(model)))


def _offers(config: dict[str, Any]) -> set[str]:
    dims = config.get("dims", {})
    return set(dims) if isinstance(dims, dict) else set()  # else a file must be read for it


@cache
def _files(group: str) -> dict[str, dict[str, Any]]:
    """Every choice of a group as it stands in its file; OmegaConf would take seven times as long to read them."""
    return {path.stem: read_yaml(path) for path in sorted((CONFIGS / group).glob("*.yaml"))}


def _choice(group: str, target: str) -> str:
    """The name of the choice that has this class."""
    return next((name for name, config in _files(group).items() if config[group]["_target_"] == target), target)
