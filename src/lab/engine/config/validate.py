"""Checks a composed config without building anything; torch is loaded only for classes that have changed."""

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.engine.config.arguments import UNKNOWN, check_arguments
from lab.engine.config.compose import get, leaves
from lab.engine.config.composition_errors import behind, causes
from lab.engine.config.instantiate import authorize_names, locate
from lab.engine.config.rules import RULES, cpu_devices
from lab.engine.config.run_config import NODES, run
from lab.engine.config.schema_cache import cached_schema, full_name, is_outdated, renew
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import read_yaml
from lab.engine.utils.names import nearest
from lab.engine.utils.paths import CONFIGS

Node = dict[str, Any]


def validate(cfg: DictConfig) -> None:
    """Checks a config against the signatures of its classes, the `dims` of its data, the rules and this machine.

    Args:
        cfg: the whole config of a run, without its `hydra` node.

    Raises:
        UserError: on the first thing that is wrong.
    """
    authorize_names(cfg)
    if missing := [key for key, value in leaves(cfg) if value == "???"]:
        raise UserError(f"{missing[0]} has no value: give one, {missing[0]}=…")
    check_own_keys(cfg)
    check_targets(cfg)
    check_interpolations(cfg)
    cpu_devices(cfg)  # before the schema, which would recommend what only GPUs can be
    check_nodes(nodes(cfg, literal=True))  # names the key of a wrong value, not one that interpolates it
    check_nodes(plain_nodes(cfg))
    check_dims(cfg)
    check_nodes(nodes(cfg))
    for rule in RULES:
        rule(cfg)


def check_nodes(found: Iterable[tuple[str, Node]], allowed: Sequence[str] | None = None) -> None:
    """Checks nodes against the schemas of their classes; last, imports the classes that have changed.

    Args:
        found: keys and nodes with a `_target_`.
        allowed: see `instantiate.locate`.
    """
    changed: list[tuple[str, Node]] = []
    for key, node in found:
        schema = cached_schema(node["_target_"])
        try:
            if schema is not None:
                check_arguments(key, node, schema)
                continue
        except UserError:
            if not is_outdated(node["_target_"]):
                raise
        changed.append((key, node))
    if changed:
        schemas = renew({node["_target_"]: _import(key, node["_target_"], allowed) for key, node in changed})
        for key, node in changed:
            check_arguments(key, node, schemas[node["_target_"]])


def _import(key: str, target: str, allowed: Sequence[str] | None) -> Any:
    try:
        return next((f for f in NODES.values() if full_name(f) == target), None) or locate(target, allowed)
    except UserError as error:
        raise UserError(f"{key}.{error}") from error


def nodes(node: DictConfig, prefix: str = "", literal: bool = False) -> Iterator[tuple[str, Node]]:
    """Yields every node with a `_target_`, and its key; interpolations are resolved, or `UNKNOWN` if `literal`."""
    names: list[Any] = list(node)
    if "_target_" in node:
        values: Node = {}
        for name in names:
            is_unknown = literal and name != "_target_" and OmegaConf.is_interpolation(node, name)
            values[str(name)] = UNKNOWN if is_unknown else resolved(node, name, f"{prefix}.{name}")
        yield prefix, values
    for name in names:
        if _is_inner(node, name):
            yield from nodes(node[name], f"{prefix}.{name}".lstrip("."), literal)


def plain_nodes(cfg: DictConfig) -> Iterator[tuple[str, Node]]:
    """Yields the nodes without a class, each with the function that describes it in place of its `_target_`."""
    for key, function in NODES.items():
        node = OmegaConf.select(cfg, key) if key else cfg
        if isinstance(node, DictConfig):
            values: Node = {}
            for name in map(str, node):
                is_inner = _is_inner(node, name)  # checked by itself
                values[name] = {} if is_inner else resolved(node, name, f"{key}.{name}".lstrip("."))
            yield key, values | {"_target_": full_name(function)}


def _is_inner(node: DictConfig, name: Any) -> bool:
    is_literal = not (OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name))
    return is_literal and isinstance(node[name], DictConfig)


def resolved(node: DictConfig, name: Any, key: str) -> Any:
    """Returns a value as plain Python; `UNKNOWN` for one that depends on a run that has not begun.

    Raises:
        UserError: for an interpolation that has no value.
    """
    try:
        value = node[name]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        *_, root = causes(error)
        if user_error := behind(error, UserError):
            raise user_error from None
        if "HydraConfig" in str(root):  # which has no value before the job begins
            return UNKNOWN
        raise UserError(f"{key}: {str(root).partition(chr(10))[0]}") from error


def check_own_keys(cfg: DictConfig) -> None:
    """Refuses a key of one's own that nothing reads and that looks like a slip: an experiment's, or a misspelt one."""
    known = [*inspect.signature(run).parameters]
    texts = [value for _, value in leaves(cfg) if isinstance(value, str) and "${" in value]
    for key in map(str, cfg):
        if key in known or any(re.search(rf"\$\{{.*\b{re.escape(key)}\b", text) for text in texts):
            continue
        if key in ("experiment", "debug"):
            raise UserError(
                f"{key}: nothing reads what its file says, which must be keys of the whole config: let the file begin"
                " with the line `# @package _global_`"
            )
        if near := nearest(key, known, cutoff=0.8):
            raise UserError(f"{key}: no such key{near}")


def check_targets(cfg: DictConfig) -> None:
    """Refuses a node that must be built and names no class."""
    built = {name: get(cfg, name) for name in ("data", "model", "optimizer", "trainer")}
    for group in ("callbacks", "logger"):
        if OmegaConf.is_dict(node := get(cfg, group)):
            built |= {f"{group}.{name!s}": node[name] for name in node}
    for key, node in built.items():
        if node is not None and not (isinstance(node, DictConfig) and get(node, "_target_") is not None):
            raise UserError(f"{key} has no _target_, the class that it is built from")


def check_interpolations(cfg: DictConfig) -> None:
    """Refuses an interpolation of a key that is not there."""
    every = dict(leaves(cfg))
    for key, value in every.items():
        for name in re.findall(r"\$\{([A-Za-z_][\w.]*)\}", value) if isinstance(value, str) else ():
            if name not in every and not name.startswith("dims.") and get(cfg, name) is None:
                raise UserError(f"{key}={value}: no such key as {name}{nearest(name, every)}")


def check_dims(cfg: DictConfig) -> None:
    """Refuses a model that interpolates a key which the `dims` of the data do not have."""
    needs, offers = _needs(OmegaConf.to_container(cfg.model, resolve=False)), set(cfg.dims)
    if missing := sorted(needs - offers):
        models, datasets = _files("model"), _files("data")
        model, data = _choice("model", cfg), _choice("data", cfg)
        # dims that are read from a file are one interpolation here, which offers nothing
        fitting_data = [name for name, other in datasets.items() if needs <= set(other.get("dims", ()))]
        fitting_models = [name for name, other in models.items() if _needs(other["model"]) <= offers]
        raise UserError(
            f"model={model} does not fit data={data}: it needs dims.{', dims.'.join(missing)},"
            f" and the data offers {', '.join(cfg.dims) or 'none'}\n"
            f"data that fits {model}: {', '.join(fitting_data) or 'none'}\n"
            f"models that fit {data}: {', '.join(fitting_models) or 'none'}"
        )


def _needs(model: Any) -> set[str]:
    return set(re.findall(r"\$\{dims\.(\w+)", str(model)))


@cache
def _files(group: str) -> dict[str, dict[str, Any]]:
    """Reads every file of a group, seven times as fast as OmegaConf would."""
    return {path.stem: read_yaml(path) for path in sorted((CONFIGS / group).glob("*.yaml"))}


def _choice(group: str, cfg: DictConfig) -> str:
    """Returns the name of the choice with the config's class, or that class."""
    target = str(get(cfg, f"{group}._target_"))
    return next((name for name, config in _files(group).items() if config[group]["_target_"] == target), target)
