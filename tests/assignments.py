"""Finds assignments to what is not ours: attributes of imported modules and classes, and of libraries' objects.

What a variable holds is read from its annotation, from the call that made it, or from where it was taken out of, such
as `trainer.strategy`; some names, such as `trainer`, speak for themselves. Configs are data, and their keys are free.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Literal

from tests.private_names import imported_names

# Names that stand for a library's object wherever nothing else is known of them
KNOWN = {"datamodule", "launcher", "lightning_module", "logger", "model", "module", "optimizer", "parser", "pl_module"}
KNOWN |= {"sampler", "strategy", "study", "trainer", "trial"}
CONFIGS = ("omegaconf", "hydra.compose")
OURS = ("lab", *sys.stdlib_module_names)
# A setter that is there for that; what has a test of its own; a second name of a module, which its loader gives
ALLOWED = {"trainer.fit_loop", "sys.argv", "sys.modules[alias]"}
# Which Python documents for that
ALLOWED |= {"sys.stdin", "sys.stdout", "sys.stderr", "sys.breakpointhook", "threading.excepthook"}
MUTATORS = {"append", "clear", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}
INHERITED = "self's bases"
Owner = Literal["foreign", "own", "config"]
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def foreign_assignments(source: str) -> list[str]:
    """What `source` assigns to or deletes of things that are not its own, each with its line."""
    tree = ast.parse(source)
    imports = imported_names(tree)
    owners = _Owners(imports, {})
    found = {(node.lineno, told) for node, told in _walk(tree, owners)}
    return [f"{line}: {told}" for line, told in sorted(found)]


def argv_assignments(source: str) -> list[int]:
    """The lines that assign or change `sys.argv`."""
    return _changes(source, "sys.argv")


def environment_assignments(source: str) -> list[int]:
    """The lines that set or delete a variable of this process's environment."""
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.putenv", "os.unsetenv")
    ]
    return sorted({*_changes(source, "os.environ"), *calls})


def _changes(source: str, name: str) -> list[int]:
    lines = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            changed: ast.expr = node
            while isinstance(changed, ast.Subscript):
                changed = changed.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            changed = node.func.value
        else:
            continue
        if ast.unparse(changed) == name:
            lines.add(node.lineno)
    return sorted(lines)


def _walk(node: ast.AST, owners: "_Owners") -> Iterator[tuple[ast.expr, str]]:
    """Assignments below `node`, each function with the variables of its own."""
    for child in ast.iter_child_nodes(node):
        inner = owners
        if isinstance(child, ast.ClassDef):
            inner = owners.of_class(child)
        elif isinstance(child, Function):
            inner = owners.of_function(child)
        yield from _judge(child, inner)
        yield from _walk(child, inner)


def _judge(node: ast.AST, owners: "_Owners") -> Iterator[tuple[ast.expr, str]]:
    if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        text = ast.unparse(node)
        if text in ALLOWED:
            return
        changed = node.value if isinstance(node, ast.Attribute) else _of_dictionary(node)
        if text.startswith("sys.modules[") or (changed is not None and owners.is_foreign(changed)):
            yield node, text
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        sets = re.search(r"(^|__)(set|del)attr(__)?$", name)
        if name == "sys.modules.pop" or (sets and owners.is_foreign(node.args[0])):
            yield node, ast.unparse(node)


def _of_dictionary(node: ast.Subscript) -> ast.expr | None:
    """Whose dictionary of attributes it is: `x` of `x.__dict__[…]` and of `vars(x)[…]`."""
    dictionary = node.value
    if isinstance(dictionary, ast.Attribute) and dictionary.attr == "__dict__":
        return dictionary.value
    if isinstance(dictionary, ast.Call) and ast.unparse(dictionary.func) == "vars":
        return dictionary.args[0]
    return None


class _Owners:
    """Knows whose the objects are that the variables of a scope hold: a library's, ours, or a config.

    Args:
        imports: dotted name of each imported name.
        variables: whose object a variable holds, where that is known.
    """

    def __init__(self, imports: Mapping[str, str], variables: Mapping[str, Owner]) -> None:
        self.imports = imports
        self.variables = dict(variables)

    def of_function(self, node: Function) -> "_Owners":
        """With its parameters, and the variables that it assigns."""
        inner = _Owners(self.imports, self.variables)
        args = node.args
        for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs]:
            inner.variables.pop(arg.arg, None)
            if arg.annotation is not None:
                inner.note(ast.Name(arg.arg), inner.of_type(arg.annotation))
        if not isinstance(node, ast.Lambda):
            inner.learn(node)
        return inner

    def of_class(self, node: ast.ClassDef) -> "_Owners":
        """With what its methods assign to `self`; what they do not comes from its bases."""
        inner = _Owners(self.imports, self.variables)
        if any(self.of_type(base) == "foreign" for base in node.bases):
            inner.variables[INHERITED] = "foreign"
        assigned = [n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
        inner.variables |= {ast.unparse(n): "own" for n in assigned if ast.unparse(n.value) == "self"}
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign):
                self_name = ast.Attribute(ast.Name("self"), ast.unparse(statement.target))
                inner.note(self_name, inner.of_type(statement.annotation))
            if isinstance(statement, ast.FunctionDef):
                variables = inner.of_function(statement).variables
                inner.variables |= {name: owner for name, owner in variables.items() if name.startswith("self.")}
        return inner

    def learn(self, node: ast.AST) -> None:
        """Takes note of assignments, and of `isinstance(x, Own)`."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.AnnAssign):
                self.note(inner.target, self.of_type(inner.annotation))
            elif isinstance(inner, ast.Assign):
                for target in inner.targets:
                    self.note(target, self.of(inner.value))
            elif isinstance(inner, ast.NamedExpr):
                self.note(inner.target, self.of(inner.value))
            elif isinstance(inner, ast.For | ast.comprehension):
                self.note(inner.target, self.of(inner.iter))
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and ast.unparse(inner.func) == "isinstance":
                seen = inner.args[0].target if isinstance(inner.args[0], ast.NamedExpr) else inner.args[0]
                self.note(seen, self.of_type(inner.args[1]))

    def note(self, target: ast.expr, owner: Owner | None) -> None:
        name = ast.unparse(target)
        if owner and (isinstance(target, ast.Name) or re.fullmatch(r"self\.\w+", name)):
            self.variables[name] = owner

    def is_foreign(self, node: ast.expr) -> bool:
        """Whether an expression is an imported name, or a library's object."""
        return self.of(node) == "foreign"

    def of(self, node: ast.expr) -> Owner | None:
        """Whose an object is; None where that cannot be told."""
        name = ast.unparse(node)
        if name in self.variables:
            return self.variables[name]
        if isinstance(node, ast.Name):
            if name in ("cfg", "config"):
                return "config"
            return "foreign" if name in self.imports or name in KNOWN else "own" if name in ("self", "cls") else None
        if isinstance(node, ast.Attribute):
            owner = self.of(node.value)
            if owner == "own" and ast.unparse(node.value) == "self":
                owner = self.variables.get(INHERITED, owner)
            return owner if owner in ("foreign", "config") else "foreign" if node.attr in KNOWN else None
        if isinstance(node, ast.Call):
            return self._of_call(node)
        if isinstance(node, ast.Subscript | ast.NamedExpr | ast.Await | ast.Starred):
            return self.of(node.value)
        if isinstance(node, ast.IfExp):
            return self.of(node.body) or self.of(node.orelse)
        if isinstance(node, ast.BoolOp):
            return next((owner for value in node.values if (owner := self.of(value))), None)
        return None

    def _of_call(self, node: ast.Call) -> Owner | None:
        """Whose that is which a class, a function or a method makes."""
        root, _, rest = ast.unparse(node.func).partition(".")
        if root in self.imports and root not in self.variables:
            path = f"{self.imports[root]}.{rest}".rstrip(".")
            is_class = path.rpartition(".")[2][0].isupper()
            return _owner(path) if is_class or _owner(path) != "own" else None  # our functions may return anything
        return self.of(node.func.value) if isinstance(node.func, ast.Attribute) else None

    def of_type(self, annotation: ast.expr) -> Owner | None:
        """Whose the class is that an annotation names, in quotes or not."""
        owners: list[Owner] = []
        for node in ast.walk(annotation):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                return self.of_type(ast.parse(node.value, mode="eval").body)
            if isinstance(node, ast.Name) and node.id != "Any":
                owners.append(_owner(self.imports.get(node.id, "lab")))
        return "foreign" if "foreign" in owners else next(iter(owners), None)


def _owner(path: str) -> Owner:
    """Whose a module, or something in it, is by its dotted name."""
    if any(path == one or path.startswith(f"{one}.") for one in CONFIGS):
        return "config"
    return "own" if path.partition(".")[0] in OURS else "foreign"
