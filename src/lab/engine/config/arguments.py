"""Checks the arguments of a config's node against the schema of its class."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from lab.engine.config.overrides import command_word, last_value
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import check_file
from lab.engine.utils.names import nearest
from lab.engine.utils.redaction import command_line

Schema = dict[str, Any]
UNKNOWN = {"_target_": "known during a run only"}  # stands for a value that is not there yet

TYPES = {
    **{"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "text"},
    **{"null": "null", "array": "a list", "object": "keys and their values"},
}
RANGES = {
    **{"minimum": "from {}", "exclusiveMinimum": "above {}"},
    **{"maximum": "to {}", "exclusiveMaximum": "below {}"},
}


def check_arguments(key: str, node: Mapping[str, Any], schema: Schema) -> None:
    """Refuses unknown arguments of a class, values that do not fit an argument, such as a file that is not there, and
    missing arguments.

    Args:
        key: where the node stands in the config.
        node: `_target_` and arguments, interpolations resolved.
        schema: see `schema.class_schema`.

    Raises:
        UserError: with the key, the value, what was expected and the nearest name.
    """
    prefix, class_name = f"{key}." if key else "", str(node.get("_target_", key or "a run")).rpartition(".")[2]
    arguments = {name: value for name, value in node.items() if not (name.startswith("_") and name.endswith("_"))}
    known = schema["properties"]
    for name, value in arguments.items():
        if name in known:
            _check_value(f"{prefix}{name}", value, known[name])
        elif not schema["additionalProperties"]:
            raise UserError(f"{prefix}{name}: {class_name} takes no such argument{nearest(name, known)}")
    if node.get("_partial_") or "_args_" in node:
        return  # the rest comes later, or by position
    for name in schema["required"]:
        if name not in arguments:
            near = nearest(name, [other for other in arguments if other not in known])
            raise UserError(f"{prefix}{name} has no value, and {class_name} needs one{near}: give {prefix}{name}=…")


def _check_value(key: str, value: Any, schema: Schema) -> None:
    branches = list(_branches(schema))
    if _is_built(value) or _validator()(schema).is_valid(value):
        if isinstance(value, str) and any(branch.get("format") == "file-path" for branch in branches):
            check_file(Path(value), key)
        return
    choices = [choice for branch in branches for choice in _choices(branch)]
    if isinstance(value, str) and any(isinstance(choice, str) for choice in choices):
        names = list(dict.fromkeys(map(_literal, choices)))
        others = _describe({"anyOf": [branch for branch in branches if not _choices(branch)]})
        listed = ", ".join(names) + (f"; or {others}" if others else "")
        raise UserError(f"{key}={value}: no such choice{nearest(str(value), names)}\nchoices: {listed}")
    takes_text = any(
        branch.get("type") == "string" and not {"pattern", "enum", "const"} & {*branch} for branch in branches
    )
    typed = last_value(command_line(), key) or str(value)  # 1e3, of which YAML has made 1000.0
    quoted = f"\nwrite {command_word(key, typed)}" if isinstance(value, int | float) and takes_text else ""
    raise UserError(f"{key}={value}: expected {_describe(schema)}{quoted}")


def _is_built(value: Any) -> bool:
    """Tells whether a value holds an object that a `_target_` describes, which no schema can check."""
    if isinstance(value, dict):
        return "_target_" in value or any(map(_is_built, value.values()))
    return isinstance(value, list) and any(map(_is_built, value))


@cache
def _validator() -> Any:
    """Makes a validator of JSON Schema to which 2.0 is no integer, and NaN lies in no range."""
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    ranges = {name: partial(_check_range, Draft202012Validator.VALIDATORS[name]) for name in RANGES}
    return extend(Draft202012Validator, ranges, type_checker=types)


def _check_range(rule: Callable[..., Any], *arguments: Any) -> Iterator[ValidationError]:
    _, _, value, _ = arguments
    yield from [ValidationError("NaN")] if value != value else rule(*arguments)


def _branches(schema: Schema) -> Iterator[Schema]:
    """Yields the alternatives of a schema, at any depth; the schema itself where it has none."""
    for branch in schema.get("anyOf", ()):
        yield from _branches(branch)
    if "anyOf" not in schema:
        yield schema


def _choices(branch: Schema) -> list[Any]:
    return list(branch.get("enum", [branch["const"]] if "const" in branch else []))


def _literal(choice: Any) -> str:
    return choice if isinstance(choice, str) else json.dumps(choice)


def _describe(schema: Schema) -> str:
    """Describes in words the values that a schema allows."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_describe, _branches(schema))))
    if choices := _choices(schema):
        return " or ".join(map(_literal, choices))
    if inner := schema.get("prefixItems"):
        return f"a list of {len(inner)}, each {_describe({'anyOf': inner})}"
    if inner := schema.get("items"):
        return f"a list, each {_describe(inner)}{', none twice' if 'uniqueItems' in schema else ''}"
    ranges = [words.format(schema[name]) for name, words in RANGES.items() if name in schema]
    example = [f"such as {schema['examples'][0]}"] if "examples" in schema else []
    return " ".join([TYPES.get(schema.get("type", ""), "a value"), *ranges, *example])
