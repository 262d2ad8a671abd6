"""Makes JSON Schemas of the arguments of classes from their signatures: the one source of types, choices and ranges."""

import dis
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from omegaconf import DictConfig, ListConfig
from pydantic import ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaError

from lab.engine.config.trainer_arguments import trainer_arguments

Schema = dict[str, Any]
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
TRAINER = "pytorch_lightning.trainer.trainer"
# Configs hold no objects of these, they build them by a `_target_`
OBJECTS = {"model", "dataclass", "enum", "date", "time", "datetime", "timedelta", "bytes", "complex"}
OBJECT = {"title": "an object"}


class _Generator(GenerateJsonSchema):
    """Makes schemas that leave objects out of unions, and allow any value where there is nothing else."""

    def generate_inner(self, schema: Any) -> Schema:
        return dict(OBJECT) if schema["type"] in OBJECTS else super().generate_inner(schema)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {DictConfig: {"type": "object"}, ListConfig: {"type": "array"}}.get(schema.get("cls"), dict(OBJECT))

    def get_flattened_anyof(self, schemas: list[Schema]) -> Schema:
        branches = [schema for schema in schemas if schema != OBJECT]
        return super().get_flattened_anyof(branches) if branches else dict(OBJECT)


def class_schema(target: Callable[..., Any]) -> Schema:
    """Makes the JSON Schema of the keyword arguments of a class or a function.

    Arguments behind `**kwargs` are those of the base classes, where `super().__init__` is given them; else any name is
    let through. An argument whose annotation JSON cannot hold takes everything; of a union the other branches count.

    Args:
        target: imported; its annotations may be strings, which are evaluated where they stand.
    """
    properties: dict[str, Schema] = {}
    required, is_open, is_inherited = [], False, False
    for owner, parameters in _signatures(target):
        narrowed = trainer_arguments() if getattr(owner, "__module__", "") == TRAINER else {}
        for name, parameter in parameters.items():
            if parameter.kind in NAMED and name not in properties:
                annotation = narrowed.get(name, _resolve(parameter.annotation, owner))
                properties[name] = _with_default(annotation_schema(annotation), parameter.default)
                if parameter.default is parameter.empty and not is_inherited:
                    required.append(name)
        is_inherited = True  # what a base needs, the constructor below may give it
        is_open = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": is_open}


def annotation_schema(annotation: Any) -> Schema:
    """Makes the JSON Schema of one annotation; an empty one for a type that JSON cannot hold."""
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        schema = adapter.json_schema(schema_generator=_Generator)
    except (PydanticUserError, SchemaError, TypeError, NameError):
        return {}
    return {} if schema == OBJECT or {} in schema.get("anyOf", []) else schema


def source_files(target: Callable[..., Any]) -> list[str]:
    """Returns the source files that define the signature of `target`."""
    owners = [owner for owner, _ in _signatures(target)]
    files = {getattr(inspect.getmodule(owner), "__file__", None) for owner in [inspect.unwrap(target), *owners]}
    return sorted(filter(None, files))


def _signatures(target: Callable[..., Any]) -> Iterator[tuple[Any, Mapping[str, inspect.Parameter]]]:
    """Yields the functions that take the arguments of `target`: its own, and as long as `**kwargs` are passed on, the
    next base's.
    """
    bases = inspect.getmro(target) if inspect.isclass(target) else ()
    inits = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
    if inits[:1] in ([], [object.__init__]):  # a function, or a class that is made by its `__new__` or in C
        inits = [target]
    for function in inits:
        try:
            parameters = dict(inspect.signature(function).parameters)
        except (TypeError, ValueError):  # of those written in C some have none
            parameters = {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}
        if inspect.isclass(target) and function is not target:
            del parameters[next(iter(parameters), "")]  # self
        yield function, parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()) or not _passes_on(function):
            return


def _passes_on(init: Callable[..., Any]) -> bool:
    """Tells whether a constructor passes its `**kwargs` to `super().__init__` alone."""
    called, loaded = [], ""
    for step in dis.get_instructions(inspect.unwrap(init)) if hasattr(inspect.unwrap(init), "__code__") else ():
        if step.opname == "DICT_MERGE":  # `**` in a call
            called.append(loaded)
        elif step.opname.startswith(("LOAD_GLOBAL", "LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER", "LOAD_DEREF")):
            loaded = str(step.argval)
    return called == ["__init__"]


def _resolve(annotation: Any, owner: Any) -> Any:
    """Evaluates one annotation by itself, so that one that fails leaves the others intact."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        function = inspect.unwrap(owner)
        return eval(annotation, getattr(function, "__globals__", vars(inspect.getmodule(function))))
    except Exception:  # a name that is imported for type checkers alone, a forward reference
        return Any


def _with_default(schema: Schema, default: Any) -> Schema:
    """Adds the default to a schema, and allows it where the annotation does not: `size: int = None`."""
    if default is inspect.Parameter.empty:
        return schema
    default = list(default) if isinstance(default, tuple) else default
    try:
        json.dumps(default, allow_nan=False)
    except (TypeError, ValueError):
        return schema
    if not Draft202012Validator(schema).is_valid(default):
        schema = {"anyOf": [schema, {"const": default}]}
    return {**schema, "default": default}
