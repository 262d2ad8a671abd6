"""Finds a class by name among the files of a package, so that a new file is all that a new class takes, and reads what
its constructor takes without importing it.
"""

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


def arguments(name: str, known: dict[str, tuple[Path, ast.ClassDef]]) -> tuple[dict[str, ast.expr | None], list[str]]:
    """What `__init__` takes, with annotations, and what it needs; its bases' too where it passes `**kwargs` on."""
    found: dict[str, ast.expr | None] = {}
    required: list[str] = []
    node = known[name][1]
    init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if init is not None:
        args = init.args.args[1:]
        aliases = _aliases(known[name][0])
        found = {a.arg: aliases.get(ast.unparse(a.annotation), a.annotation) if a.annotation else None for a in args}
        required = [a.arg for a in args[: len(args) - len(init.args.defaults)]]
    if init is None or init.args.kwarg is not None:
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in known:
                inherited, needed = arguments(base.id, known)
                passed = {k.arg for k in _super_keywords(init)} if init else set()
                found = {k: v for k, v in inherited.items() if k not in passed} | found
                required += [k for k in needed if k not in passed and k not in required]
    return found, required


@cache
def _aliases(path: Path) -> dict[str, ast.expr]:
    """What a file calls by a name of its own at its top, such as `Cell = Literal["gru", "lstm"]`."""
    return {
        node.targets[0].id: node.value
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _super_keywords(init: ast.FunctionDef) -> list[ast.keyword]:
    """What `super().__init__(…)` is given by name."""
    for node in ast.walk(init):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__":
            return node.keywords
    return []


def literals(annotation: ast.expr | None) -> list[Any]:
    """The choices of a `Literal[…]`, none for any other annotation."""
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) != "Literal":
        return []
    elements = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    return [element.value for element in elements if isinstance(element, ast.Constant)]
