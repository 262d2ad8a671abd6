"""The guards of a constructor (`if num_val >= num_samples: raise UserError(…)`), tried without importing its file.

What a class refuses is said in one place, the class. Its module imports torch, though, and a wrong command line is to
be answered at once. So the statements of `__init__` that hang on nothing but its arguments are run by themselves: those
that raise UserError or ValueError, and the assignments that they read. All others are passed over.
"""

import ast
from typing import Any

from lab.engine.config.checks.signatures import bases, constants, find, initializer, passes_on

# All that a guard may call, with these methods of what it has at hand
CALLED: list[Any] = [abs, all, any, bool, dict, float, int, isinstance, len, list, max, min, range, round, set, sorted]
SAFE: dict[str, Any] = {function.__name__: function for function in [*CALLED, str, sum, tuple, zip]}
METHODS = {"items", "keys", "values", "join", "get"}


class Refused(Exception):
    """Stands for UserError in a guard, so that one that Python raises by itself is told from it."""


def refusal(target: str, given: dict[str, Any]) -> str | None:
    """What the class `target` and its bases would say of the arguments `given`; None where they do not complain."""
    module, _, name = target.rpartition(".")
    found = find(module, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    return _try(found[0], found[1], given)


def _try(module: str, node: ast.ClassDef, given: dict[str, Any]) -> str | None:
    init = initializer(node)
    names: dict[str, Any] = {"ValueError": Refused, "UserError": Refused} | SAFE
    if init is not None:
        names |= _literals(constants(module)) | _defaults(init)
        own = {a.arg for a in [*init.args.args, *init.args.kwonlyargs]}
        names |= {key: value for key, value in given.items() if key in own}
        above = {key: value for key, value in given.items() if key not in own}
        call = passes_on(init)
        for statement in init.body:
            if said := _run(statement, names):
                return said
        for keyword in call.keywords if call else []:
            if isinstance(keyword.value, ast.Name) and keyword.arg and keyword.value.id in names:
                above[keyword.arg] = names[keyword.value.id]
        if call is None or ast.unparse(call.func) != "super().__init__":
            return None
        given = above
    for place, base in bases(module, node):
        if said := _try(place, base, given):
            return said
    return None


def _run(statement: ast.stmt, names: dict[str, Any]) -> str | None:
    """Runs one statement of a constructor over `names` if it is a guard or a plain assignment."""
    if isinstance(statement, ast.If | ast.For | ast.Assign | ast.AnnAssign) and _is_plain(statement, names):
        try:
            exec(compile(ast.Module([statement], []), "<guard>", "exec"), {"__builtins__": {}}, names)
            return None
        except Refused as refused:
            return str(refused)
        except Exception:  # arguments of a wrong type: told elsewhere
            pass
    for node in ast.walk(statement):  # what was not run is not known any more
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.pop(node.id, None)
    return None


def _is_plain(statement: ast.stmt, names: dict[str, Any]) -> bool:
    """Whether a statement reads known names only and calls nothing but `SAFE`."""
    nodes = list(ast.walk(statement))
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.Name) and node.id not in names and node.id not in bound:
            return False
        if isinstance(node, ast.Attribute) and (node.attr not in METHODS or isinstance(node.ctx, ast.Store)):
            return False
        if isinstance(node, ast.Lambda | ast.Await | ast.Yield | ast.NamedExpr | ast.While):
            return False
    return True


def _literals(expressions: dict[str, ast.expr]) -> dict[str, Any]:
    found = {}
    for name, expression in expressions.items():
        try:
            found[name] = ast.literal_eval(expression)
        except (ValueError, TypeError):
            continue
    return found


def _defaults(init: ast.FunctionDef) -> dict[str, Any]:
    args = init.args
    positional = zip(reversed(args.args), reversed(args.defaults), strict=False)
    named = [(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d is not None]
    return _literals({a.arg: default for a, default in [*positional, *named]})
