"""Every `_target_` of a config is there, takes the keys that stand beside it, and does not refuse their values."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.checks import signatures
from lab.engine.config.checks.guards import refusal
from lab.engine.config.checks.values import misfit, plain
from lab.engine.config.compose import get
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

Node = dict[str, Any]


def check_arguments(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Holds the nodes that are built against the signatures of what they are built from: read, not imported.

    All of ours, and of the libraries' those that the command line names: their long sources take a moment to read, and
    `make check-configs` has read them for every file.

    Raises:
        UserError: on the first that is wrong.
    """
    words = [word.lstrip("+~").partition("=")[0] for word in overrides]
    for key, node in targets(cfg):
        ours = str(node["_target_"]).startswith("lab.")
        if ours or any(word == key or word.startswith(f"{key}.") for word in words):
            check_node(key, node)
    for group in ("callbacks", "logger"):
        named = cfg.get(group)
        for name, part in named.items() if isinstance(named, DictConfig) else []:
            if part is not None and not (isinstance(part, DictConfig) and "_target_" in part):
                raise UserError(f"{group}.{name!s} has no _target_, the class that it is built from")


def targets(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """Every node below that is built, by its key; values that cannot be known yet are left out."""
    if "_target_" in node:
        yield prefix, dict(_known(node))
    for name in map(str, node):
        child = None if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name) else node[name]
        if isinstance(child, DictConfig):
            yield from targets(child, f"{prefix}.{name}" if prefix else name)


def _known(node: DictConfig) -> Iterator[tuple[str, Any]]:
    for key in map(str, node):
        value = get(node, key)
        yield key, UNKNOWN if value is None and OmegaConf.is_interpolation(node, key) else plain(value)


UNKNOWN = {"_target_": "a value that the run will know"}  # fits anything


def check_node(key: str, node: Node) -> None:
    """Holds one node against the signature of its target.

    Args:
        key: where it stands in the config.
        node: `_target_` and arguments, interpolations resolved.
    """
    target = str(node["_target_"])
    name = target.rpartition(".")[2]
    takes = signatures.read(target)
    if takes is None:
        _explain_absent(key, target)
        return
    given = {k: v for k, v in node.items() if not k.startswith("_")}
    for argument, value in given.items():
        if argument not in takes.kinds:
            if takes.open:
                continue
            raise UserError(f"{key}.{argument}: {name} takes no such argument{nearest(argument, takes.kinds)}")
        expected = misfit(value, takes.kinds[argument])
        if expected is None:
            continue
        if not expected.startswith("one of "):
            raise UserError(f"{key}.{argument}={value}: expected {expected}")
        choices = expected.removeprefix("one of ")
        near = nearest(str(value), choices.split(", "))
        raise UserError(f"{key}.{argument}={value}: no such choice{near}\nchoices: {choices}")
    if node.get("_partial_"):
        return  # the rest comes later
    for argument in takes.required:
        if argument not in given:
            raise UserError(f"{key}.{argument} has no value, and {name} needs one: give {key}.{argument}=…")
    if UNKNOWN not in given.values() and (said := refusal(target, given)):
        raise UserError(f"{key}.{said}" if said.partition("=")[0] in given else f"{key}: {said}")


def _explain_absent(key: str, target: str) -> None:
    module, _, name = target.rpartition(".")
    if target.startswith("lab."):
        near = nearest(name, signatures.classes(module))
        raise UserError(f"{key}._target_={target}: no such class{near}")
    if find_spec(target.partition(".")[0]) is None:
        raise UserError(f"{key}._target_={target}: the package {target.partition('.')[0]} is not installed")
