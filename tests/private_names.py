"""Finds private names of libraries, and of other files, in source code.

A name is private when it begins with one underscore. Four ways lead to one: an import, an attribute, a string, and
`self` in a subclass of a library's class, where the name may be the library's own.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

LIBRARIES = [
    "hydra",
    "hydra_plugins",
    "lightning_fabric",
    "lightning_utilities",
    "omegaconf",
    "optuna",
    "pytorch_lightning",
    "torch",
    "torchmetrics",
    "torchvision",
]
HYDRA = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_", "_self_", "_global_"}  # keys of its configs
DOCUMENTED = {"os._exit", "sys._current_frames"}
DOTTED = re.compile(rf"\b(?:{'|'.join(LIBRARIES)})(?:\.\w+)*?\.(_[A-Za-z]\w*)")
OWN_TARGET = re.compile(r"_target_:\s*[\"']?(?:\w+\.)+(_[A-Za-z]\w*)")


def is_private(name: str) -> bool:
    """Whether `name` begins with an underscore, and is neither a dunder nor a key of Hydra's."""
    return bool(re.match(r"_[A-Za-z]", name)) and name not in HYDRA


def private_names(source: str) -> list[str]:
    """Private names that `source` takes from elsewhere, each with its line."""
    tree = ast.parse(source)
    found = [*_imported(tree), *_attributes(tree), *_strings(tree), *_inherited(tree)]
    return [f"{line}: {name}" for line, name in sorted(set(found))]


def private_targets(config: str) -> list[str]:
    """Private names that the text of a config file leads to, each with its line."""
    lines = enumerate(config.splitlines(), start=1)
    return [f"{n}: {name}" for n, line in lines for name in [*DOTTED.findall(line), *OWN_TARGET.findall(line)]
            if is_private(name)]  # fmt: skip


def _imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            for name in [module, *(alias.name for alias in node.names)]:
                if any(is_private(part) for part in name.split(".")):
                    yield node.lineno, name


def _attributes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Attributes, also by `getattr`, that nothing in the file defines."""
    own = _defined(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            name = str(node.args[1].value) if isinstance(node.args[1], ast.Constant) else ""
        else:
            continue
        if is_private(name) and name not in own and ast.unparse(node) not in DOCUMENTED:
            yield node.lineno, ast.unparse(node)


def _defined(tree: ast.Module) -> set[str]:
    own = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            own.add(node.attr)
    return own


def _is_self(node: ast.expr) -> bool:
    return ast.unparse(node) in ("self", "cls", "super()")


def _strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for match in DOTTED.finditer(node.value):
                if is_private(match[1]):
                    yield node.lineno, match[0]


def _inherited(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Names that a class uses or defines as its own, and that a library's class among its bases has already."""
    imports = imported_names(tree)
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in classes.values():
        taken = set().union(*(_private_parts(base) for base in _library_bases(node, classes, imports)))
        for inner in ast.walk(node):
            if isinstance(inner, ast.FunctionDef):
                name = inner.name
            elif isinstance(inner, ast.Attribute) and _is_self(inner.value):
                name = inner.attr
            elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                name = inner.id if inner in _class_level(node) else ""
            elif isinstance(inner, ast.Constant):
                name = str(inner.value)  # a key of its state, perhaps
            else:
                continue
            if name in taken:
                yield inner.lineno, f"{node.name}.{name}"


def _class_level(node: ast.ClassDef) -> list[ast.expr]:
    return [
        target
        for statement in node.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
    ]


def imported_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: `pl` for `pytorch_lightning`, `nn` for `torch.nn`."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _library_bases(node: ast.ClassDef, classes: dict[str, ast.ClassDef], imports: dict[str, str]) -> set[type]:
    found: set[type] = set()
    for base in node.bases:
        root, _, rest = ast.unparse(base).partition("[")[0].partition(".")
        if root in classes and classes[root] is not node:
            found |= _library_bases(classes[root], classes, imports)
        elif root in imports:
            resolved = _resolve(f"{imports[root]}.{rest}".rstrip("."))
            if isinstance(resolved, type):
                found |= {one for one in resolved.__mro__ if one.__module__.partition(".")[0] in LIBRARIES}
    return found


def _resolve(path: str) -> Any:
    """What a dotted path stands for."""
    module, _, name = path.rpartition(".")
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        return getattr(_resolve(module), name)


@cache
def _private_parts(library_class: type) -> set[str]:
    """The private names that a class has: those that it defines, and those that its methods set or read."""
    try:
        source = inspect.getsource(library_class)
    except (OSError, TypeError):  # it is written in C
        source = ""
    used = re.findall(r"\bself\.(_[A-Za-z]\w*)", source)
    return {name for name in [*vars(library_class), *used] if is_private(name)}
