"""Caches the schemas of classes in a file, so that a command line is checked without importing torch.

`make setup` writes it, see `editors`; a run renews those of its classes that have changed.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from lab.engine.compat.aliases import import_foreign
from lab.engine.config.run_config import NODES
from lab.engine.utils.files import atomic_write
from lab.engine.utils.paths import CONFIGS, ROOT

PATH = ROOT / ".schema" / "classes.json"
# Whose public classes it has, besides those that configs/ name
MODULES = [
    *("torch.optim", "torch.optim.lr_scheduler"),
    *(f"pytorch_lightning.{name}" for name in ("callbacks", "loggers", "strategies", "profilers")),
]

Schema = dict[str, Any]


def cached_schema(target: str) -> Schema | None:
    """Returns the cached schema of a class; None if there is none, or if one of its source files has changed."""
    entry = _entries().get(target)
    if entry is None or any(_stamp(file) != stamp for file, stamp in entry["files"].items()):
        return None
    return entry["schema"]


def is_outdated(target: str) -> bool:
    """Tells whether any code of this checkout has changed since the schema of a class was made.

    The class's file may import it, such as the choices of an argument.
    """
    return _entries().get(target, {}).get("newest", 0) < _newest_source()


def renew(classes: Mapping[str, Callable[..., Any]]) -> dict[str, Schema]:
    """Makes and caches the schemas of imported classes, and returns them by the names that configs use."""
    from lab.engine.config.schema import class_schema, source_files  # pydantic loads here

    renewed: dict[str, dict[str, Any]] = {}
    for target, cls in classes.items():
        files = {file: _stamp(file) for file in [inspect.getfile(class_schema), *source_files(cls)]}
        renewed[target] = {"files": files, "newest": _newest_source(), "schema": class_schema(cls)}
    with suppress(OSError):  # a checkout that nobody may write to
        PATH.parent.mkdir(exist_ok=True)
        with atomic_write(PATH) as partial:
            partial.write_text(json.dumps(_entries() | renewed))
    _entries().update(renewed)
    return {target: entry["schema"] for target, entry in renewed.items()}


def full_name(function: Callable[..., Any]) -> str:
    """Returns the name of a class or a function as written in a `_target_`."""
    return f"{function.__module__}.{function.__qualname__}"


def renew_all() -> None:
    """Renews the schema of every class that configs/ names or that the listed modules of libraries have."""
    classes: dict[str, Callable[..., Any]] = {full_name(function): function for function in NODES.values()}
    for name in MODULES:
        classes |= public_classes(name)
    renew(classes | configured_classes(path.read_text(encoding="utf-8") for path in CONFIGS.rglob("*.yaml")))


def configured_classes(texts: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """Imports every class that these texts of config files name."""
    classes = {}
    for target in sorted({name for text in texts for name in re.findall(r"_target_: *([\w.]+)", text)}):
        module, _, name = target.rpartition(".")
        with suppress(ImportError, AttributeError):  # of an extra that is not installed, or wrong: a run refuses it
            classes[target] = getattr(import_foreign(module), name)
    return classes


def public_classes(module: str) -> dict[str, Callable[..., Any]]:
    """Imports a module, and returns its public classes by their full names; none for an empty name."""
    if not module:
        return {}
    return {
        f"{module}.{name}": value
        for name, value in vars(import_module(module)).items()
        if inspect.isclass(value) and not name.startswith("_") and value.__module__.startswith(module)
    }


@cache
def _entries() -> dict[str, dict[str, Any]]:
    try:
        entries: dict[str, dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


@cache
def _newest_source() -> int:
    return max(path.stat().st_mtime_ns for path in (ROOT / "src").rglob("*.py"))


@cache
def _stamp(file: str) -> list[int]:
    with suppress(OSError):
        status = Path(file).stat()
        return [status.st_mtime_ns, status.st_size]
    return []
