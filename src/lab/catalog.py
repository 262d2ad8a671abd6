"""Finds a class by name among the files of a package, so that a new file is all that a new class takes."""

import ast
import importlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any


@cache
def classes(folder: str) -> dict[str, tuple[Path, ast.ClassDef]]:
    """Every public class that a file of `folder` defines: its file and its source, read without importing anything."""
    found = {}
    for path in sorted(Path(folder).glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name] = (path, node)
    return found


def lazy(package: str, folders: Iterable[str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that imports the file that defines the class asked for."""

    def getattr_(name: str) -> Any:
        for folder in folders:
            if name in classes(folder):
                module = importlib.import_module(f"{package}.{classes(folder)[name][0].stem}")
                return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattr_
