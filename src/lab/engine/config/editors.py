"""Writes JSON Schemas for editors, so that keys and choices of configs complete while typing: `make schema`.

Each file of configs/ names the schema of its group in a `# yaml-language-server` comment; VS Code is told in its
settings as well. `make setup` writes the schemas, and those of `schema_cache`: python -m lab.engine.config.editors
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from lab.engine.config import run_config
from lab.engine.config.schema import class_schema
from lab.engine.config.schema_cache import configured_classes, public_classes, renew_all
from lab.engine.utils.files import atomic_write
from lab.engine.utils.paths import CONFIGS, ROOT

Schema = dict[str, Any]

FOLDER = ROOT / ".schema"
SETTINGS = ROOT / ".vscode" / "settings.json"
INTERPOLATION = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}  # allowed for every argument
OWN_KEYS = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
# Groups whose files hold nodes of any name, or a single node, and the modules with more classes for them
NAMED = {"callbacks": "pytorch_lightning.callbacks", "logger": "pytorch_lightning.loggers"}
ONE = {"optimizer": "torch.optim", "scheduler": "torch.optim.lr_scheduler"}


def file_schema(group: str) -> Schema:
    """Makes the schema of the files of a config group; of configs/train.yaml itself for an empty name."""
    paths = [*CONFIGS.glob(f"{group}/*.yaml")] if group else [CONFIGS / "train.yaml"]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    if group not in NAMED and group not in ("data", "model", "scheduler"):  # the file is the node
        texts = [line for text in texts for line in text.splitlines() if not line.startswith(" ")]
    classes = configured_classes(texts) | public_classes(NAMED.get(group) or ONE.get(group) or "")
    node = node_schema(classes)
    if group in NAMED:
        return _file({}, additional={"anyOf": [node, {"type": "null"}]})
    if group == "scheduler":
        inner = _partial(arguments_schema(run_config.scheduler))["properties"]
        return _file(inner | {"scheduler": {"anyOf": [node, {"type": "null"}]}})
    if not group or any(text.startswith("# @package _global_") for text in texts):
        root = arguments_schema(run_config.run)["properties"]
        own = {key: _partial(arguments_schema(function)) for key, function in run_config.NODES.items() if key}
        root |= {key: {"anyOf": [schema, {"type": "null"}]} for key, schema in own.items()}
        root["trainer"] = node_schema(configured_classes(["_target_: pytorch_lightning.Trainer"]))
        root |= {group: node} if group in ("data", "model") else {}
        return _file(root)
    return {**node, "properties": {**node["properties"], "defaults": {"type": "array"}}}


def node_schema(classes: Mapping[str, Callable[..., Any]]) -> Schema:
    """Makes the schema of a node that is built from one of these classes, or from an unknown one."""
    choices = {"anyOf": [{"enum": sorted(classes)}, {"type": "string"}], "description": "the class to build"}
    own = {"_target_": choices, "_partial_": {"type": "boolean"}}
    branches = []
    for name, target in sorted(classes.items()):
        then = arguments_schema(target)
        then["properties"] |= dict.fromkeys(OWN_KEYS, True) | {"defaults": True}
        then.pop("required")  # a file may be a part of a config
        condition = {"properties": {"_target_": {"const": name}}, "required": ["_target_"]}
        branches.append({"if": condition, "then": then})
    if len(classes) == 1:  # a file that is a delta to another names no class
        [only] = branches
        return {**only["then"], "properties": {**only["then"]["properties"], **own}}
    return {"type": "object", "properties": own, **({"allOf": branches} if branches else {})}


def arguments_schema(target: Callable[..., Any]) -> Schema:
    """Makes the schema of a class's arguments, described as in its docstrings; each may be an interpolation."""
    schema = class_schema(target)
    hints = descriptions(target)
    for name, value in schema["properties"].items():
        default = {"default": value["default"]} if "default" in value else {}
        own = {key: one for key, one in value.items() if key != "default"}
        hint = {"description": hints[name]} if name in hints else {}
        schema["properties"][name] = {**({"anyOf": [own, INTERPOLATION]} if own else {}), **default, **hint}
    return schema


def descriptions(target: Callable[..., Any]) -> dict[str, str]:
    """Returns the description of each argument in the docstrings of a class and its bases, in Google's style."""
    hints: dict[str, str] = {}
    for owner in inspect.getmro(target) if inspect.isclass(target) else [target]:
        for doc in filter(None, (owner.__doc__, getattr(vars(owner).get("__init__"), "__doc__", None))):
            _, _, section = inspect.cleandoc(doc).partition("Args:\n")
            section = re.split(r"\n(?=\S)", section, maxsplit=1)[0]
            indent = re.match(r" *", section)[0]  # type: ignore[index]
            for entry in re.split(rf"\n(?={indent}\w)", section) if indent else []:
                name, _, text = entry.strip().partition(":")
                hints.setdefault(name.partition(" ")[0], " ".join(text.split()))
    return hints


def write_schemas() -> dict[str, str]:
    """Writes a schema for each group of configs/; returns for each the pattern of its files, for VS Code's settings."""
    folders = [CONFIGS, *sorted(path for path in CONFIGS.rglob("*") if path.is_dir() and any(path.glob("*.yaml")))]
    FOLDER.mkdir(exist_ok=True)
    known = {}
    for folder in folders:
        group = folder.relative_to(CONFIGS).as_posix() if folder != CONFIGS else ""
        name = group.replace("/", "-") or "train"
        with atomic_write(FOLDER / f"{name}.json") as partial:
            partial.write_text(json.dumps(file_schema(group), indent=1))
        known[f"./.schema/{name}.json"] = f"configs/{group}/*.yaml" if group else "configs/*.yaml"
    return known


def write_settings(known: dict[str, str]) -> None:
    """Adds the schemas to VS Code's settings, and keeps its other settings."""
    try:
        settings = json.loads(SETTINGS.read_text(encoding="utf-8")) if SETTINGS.exists() else {}
    except ValueError:  # with comments in it
        print(f"{SETTINGS} is no plain JSON: add yourself\n{json.dumps({'yaml.schemas': known}, indent=2)}")
        return
    SETTINGS.parent.mkdir(exist_ok=True)
    settings["yaml.schemas"] = {**settings.get("yaml.schemas", {}), **known}
    SETTINGS.write_text(json.dumps(settings, indent=2) + "\n")


def _partial(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key != "required"}


def _file(properties: Schema, additional: Any = True) -> Schema:
    keys = {"defaults": {"type": "array"}, **properties}
    return {"type": "object", "properties": keys, "additionalProperties": additional}


if __name__ == "__main__":
    renew_all()
    found = write_schemas()
    if "vscode" in sys.argv[1:]:
        write_settings(found)
        print(f"{len(found)} schemas in {FOLDER}; {SETTINGS} names them")
