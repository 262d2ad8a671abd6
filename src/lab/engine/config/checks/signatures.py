"""What a class or function takes, read from its source: importing torch to learn that takes seconds."""

import ast
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Union

PLAIN = {"int": int, "float": float, "str": str, "bool": bool, "None": NoneType, "Path": str, "_PATH": str}
SEQUENCES = ("Sequence", "list", "List", "Iterable", "tuple", "Tuple")
MAPPINGS = ("dict", "Dict", "Mapping")

Definition = ast.ClassDef | ast.FunctionDef


@dataclass
class Signature:
    """Arguments by name.

    Args:
        kinds: what each takes, as a type of Python's own or of `typing`; Any where the source does not say.
        required: those without a default.
        open: whether it takes more than could be found out.
    """

    kinds: dict[str, Any] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    open: bool = False

    def add(self, other: "Signature", given: set[str]) -> None:
        """Takes what `other` takes, but for what is `given` to it already."""
        self.kinds = {k: v for k, v in other.kinds.items() if k not in given} | self.kinds
        self.required += [k for k in other.required if k not in given and k not in self.required]
        self.open |= other.open


def read(target: str) -> Signature | None:
    """The signature of `package.module.Name`, the arguments that `**kwargs` passes on included; None if not found."""
    module, _, name = target.rpartition(".")
    found = find(module, name)
    return _signature(*found) if found else None


@cache
def find(module: str, name: str) -> tuple[str, Definition] | None:
    """The module that defines what `module` calls `name`, and its source; imports are followed, none is made."""
    path = _file(module)
    if path is None:
        return None
    for node in _tree(path).body:
        if isinstance(node, Definition) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find(_absolute(node, module, path), alias.name)
    return None


def classes(module: str) -> list[str]:
    """The classes that a module defines; none where there is no such module."""
    path = _file(module)
    return [node.name for node in _tree(path).body if isinstance(node, ast.ClassDef)] if path else []


def constants(module: str) -> dict[str, ast.expr]:
    """What a module calls by a name of its own at its top, such as `Cell = Literal["gru", "lstm"]`."""
    path = _file(module)
    return {
        node.targets[0].id: node.value
        for node in (_tree(path).body if path else [])
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def initializer(node: Definition) -> ast.FunctionDef | None:
    """What runs when `node` is called, where it is written down in `node` itself."""
    if isinstance(node, ast.FunctionDef):
        return node
    return next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)


def passes_on(init: ast.FunctionDef) -> ast.Call | None:
    """The call that is given the `**kwargs` of `init`."""
    for node in ast.walk(init):
        if isinstance(node, ast.Call) and init.args.kwarg is not None:
            for keyword in node.keywords:
                if keyword.arg is None and ast.unparse(keyword.value) == init.args.kwarg.arg:
                    return node
    return None


def bases(module: str, node: ast.ClassDef) -> list[tuple[str, ast.ClassDef]]:
    """The classes that `node` stands on, with their modules, as far as they are found."""
    found = [find(module, base.id) for base in node.bases if isinstance(base, ast.Name)]
    return [(place, base) for place, base in filter(None, found) if isinstance(base, ast.ClassDef)]


def _signature(module: str, node: Definition) -> Signature:
    init = initializer(node)
    signature = Signature()
    if init is not None:
        every = [*init.args.posonlyargs, *init.args.args][isinstance(node, ast.ClassDef) :]
        named = dict(zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True))
        aliases = constants(module)
        signature.kinds = {a.arg: meaning(a.annotation, aliases) for a in [*every, *named]}
        signature.required = [a.arg for a in every[: len(every) - len(init.args.defaults)]]
        signature.required += [a.arg for a, default in named.items() if default is None]
        if init.args.kwarg is None:
            return signature
    call = passes_on(init) if init else None
    given = {k.arg for k in call.keywords if k.arg} if call else set()
    if init is None or (call and ast.unparse(call.func) == "super().__init__"):
        above = bases(module, node) if isinstance(node, ast.ClassDef) else []
        for place, base in above:
            signature.add(_signature(place, base), given)
        signature.open |= isinstance(node, ast.ClassDef) and len(above) < len(node.bases)  # of another package
    elif call:  # a function passes them on to another, and what it hands over to be called
        heirs = [find(module, n.id) for n in [call.func, *call.args] if isinstance(n, ast.Name)]
        for heir in filter(None, heirs):
            further = _signature(*heir)
            first = next(iter(further.kinds), "")  # the parameters, or the class that is handed over
            signature.add(further, {*given, first, *signature.kinds})
        known = any(isinstance(heir[1], ast.ClassDef) for heir in filter(None, heirs))
        signature.open = not known
    else:
        signature.open = True
    return signature


def meaning(annotation: ast.expr | None, aliases: dict[str, ast.expr]) -> Any:
    """The type that an annotation names, Any where it names no plain one."""
    match annotation:
        case ast.Constant(value=None):
            return NoneType
        case ast.Constant(value=str(text)):
            return meaning(ast.parse(text, mode="eval").body, aliases)
        case ast.Name(id=name) if name in PLAIN:
            return PLAIN[name]
        case ast.Name(id=name) if name in aliases:
            return meaning(aliases[name], {k: v for k, v in aliases.items() if k != name})
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return meaning(left, aliases) | meaning(right, aliases)
        case ast.Subscript(value=outer, slice=inner):
            name = ast.unparse(outer).rpartition(".")[2]
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if name == "Literal":
                return Literal[tuple(part.value for part in parts if isinstance(part, ast.Constant))]
            kinds = [meaning(part, aliases) for part in parts]
            if name == "Optional":
                return Union[kinds[0], None]  # noqa: UP007 (of values that are types)
            if name == "Union":
                return Union[tuple(kinds)]  # noqa: UP007
            if name in SEQUENCES:
                return list[kinds[0]]  # type: ignore[valid-type]
            return dict if name in MAPPINGS else Any
    return Any


@cache
def _file(module: str) -> Path | None:
    """Where a module's source lies."""
    top, *parts = module.split(".")
    try:
        spec = find_spec(top)  # of the outermost package, which is found without being imported
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    if spec.submodule_search_locations is None:
        return None if parts else Path(spec.origin)
    path = Path(spec.origin).parent.joinpath(*parts)
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    """The module that `from … import` names, dots at its front resolved."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    above = parts[: len(parts) - node.level + (path.name == "__init__.py")]
    return ".".join([*above, *filter(None, [node.module])])
