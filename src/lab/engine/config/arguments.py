"""Holds the arguments of a config's node against the schema of what it is built from."""

import operator
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

Schema = dict[str, Any]
UNKNOWN = {"_target_": "what the run will know"}  # stands for a value that is not there yet

TYPES = {
    **{"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "text"},
    **{"null": "null", "array": "a list", "object": "keys and their values"},
}
BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (operator.ge, "from {}"),
    "exclusiveMinimum": (operator.gt, "above {}"),
    "maximum": (operator.le, "to {}"),
    "exclusiveMaximum": (operator.lt, "below {}"),
}


def check_arguments(key: str, node: Mapping[str, Any], schema: Schema) -> None:
    """Refuses arguments that a class does not take, values that it does not take for them, and missing ones.

    Args:
        key: where the node stands in the config.
        node: `_target_` and arguments, interpolations resolved.
        schema: see `schema.class_schema`.

    Raises:
        UserError: with the key, the value, what was expected and the nearest name.
    """
    prefix, taker = f"{key}." if key else "", str(node.get("_target_", key or "a run")).rpartition(".")[2]
    given = {name: value for name, value in node.items() if not (name.startswith("_") and name.endswith("_"))}
    known = schema["properties"]
    for name, value in given.items():
        if name in known:
            _check_value(f"{prefix}{name}", value, known[name])
        elif not schema["additionalProperties"]:
            raise UserError(f"{prefix}{name}: {taker} takes no such argument{nearest(name, known)}")
    if node.get("_partial_") or "_args_" in node:
        return  # the rest comes later, or by position
    for name in schema["required"]:
        if name not in given:
            near = nearest(name, [other for other in given if other not in known])
            raise UserError(f"{prefix}{name} has no value, and {taker} needs one{near}: give {prefix}{name}=…")


def _check_value(key: str, value: Any, schema: Schema) -> None:
    if _is_built(value) or _validator()(schema).is_valid(value):
        return
    choices = [str(choice) for choice in _choices(schema)]
    if choices and not isinstance(value, list | dict):
        known = ["null" if choice == "None" else choice for choice in choices]
        others = " or ".join(dict.fromkeys(_describe(schema, choices=False)))
        listed = ", ".join(known) + (f"; or {others}" if others else "")
        raise UserError(f"{key}={value}: no such choice{nearest(str(value), known)}\nchoices: {listed}")
    quoted = f"\nwrite {key}=\"'{value}'\"" if isinstance(value, int | float) and _takes_text(schema) else ""
    raise UserError(f"{key}={value}: expected {' or '.join(dict.fromkeys(_describe(schema)))}{quoted}")


def _is_built(value: Any) -> bool:
    """Tells whether an object that a `_target_` describes is in a value, which no schema can judge."""
    if isinstance(value, dict):
        return "_target_" in value or any(map(_is_built, value.values()))
    return isinstance(value, list) and any(map(_is_built, value))


@cache
def _validator() -> Any:
    """JSON Schema's rules, but that 2.0 is no whole number, and NaN lies in no range."""
    checker = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    bounds = {name: partial(_bound, holds) for name, (holds, _) in BOUNDS.items()}
    return extend(Draft202012Validator, bounds, type_checker=checker)


def _bound(holds: Callable[[Any, Any], bool], validator: Any, bound: Any, value: Any, schema: Schema) -> Iterator[Any]:
    if validator.is_type(value, "number") and not holds(value, bound):
        yield ValidationError(f"{value} is not in range")


def _choices(schema: Schema) -> list[Any]:
    """Returns the named choices of a schema, alone or among others."""
    found = [*schema.get("enum", [])] if "const" not in schema else [schema["const"]]
    found += [choice for branch in schema.get("anyOf", []) for choice in _choices(branch)]
    return found if any(isinstance(choice, str) for choice in found) else []


def _takes_text(schema: Schema) -> bool:
    return (schema.get("type") == "string" and "pattern" not in schema) or any(
        map(_takes_text, schema.get("anyOf", []))
    )


def _describe(schema: Schema, choices: bool = True) -> Iterator[str]:
    """Yields what a value may be, in words."""
    if "anyOf" in schema:
        for branch in schema["anyOf"]:
            yield from _describe(branch, choices)
    elif "enum" in schema or "const" in schema:
        if choices:
            yield from map(str, schema.get("enum", [schema.get("const")]))
    elif "prefixItems" in schema:
        inner = dict.fromkeys(word for item in schema["prefixItems"] for word in _describe(item))
        yield f"a list of {len(schema['prefixItems'])}, each {' or '.join(inner)}"
    elif schema.get("items"):
        yield f"a list, each {' or '.join(_describe(schema['items']))}"
    else:
        bounds = [words.format(schema[name]) for name, (_, words) in BOUNDS.items() if name in schema]
        example = [f"such as {schema['examples'][0]}"] if "examples" in schema else []
        yield " ".join([TYPES.get(schema.get("type", ""), "a value"), *bounds, *example])
