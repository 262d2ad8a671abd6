"""Schemas of real signatures: nothing right is refused, and what is wrong of a type that JSON can hold is."""

import enum
import functools
import inspect
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

import pytest
import pytorch_lightning as pl
from omegaconf import DictConfig, ListConfig

from lab.engine.config.arguments import check_arguments
from lab.engine.config.schema import class_schema
from lab.engine.config.schema_cache import MODULES, configured_classes, public_classes
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import CONFIGS
from lab.engine.utils.ranges import FilePath, PositiveInt, Probability
from lab.models.mlp import MLP

if TYPE_CHECKING:
    from nowhere import Thing  # type: ignore[import-not-found]

UNKNOWN = object()
WRONG: list[Any] = ["no such choice", {"no": "such"}, ["no", "such"], 1.5, 7, True, None, -1]


def every_class() -> dict[str, Callable[..., Any]]:
    texts = [path.read_text() for path in CONFIGS.rglob("*.yaml")]
    found = configured_classes(texts)
    for module in MODULES:
        found |= public_classes(module)
    return found


def example(annotation: Any) -> Any:
    """A value of a type as a config holds it, found without the code that is tested; UNKNOWN where there is none."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    plain: dict[Any, Any] = {
        bool: True,
        int: 1,
        float: 0.5,
        str: "text",
        Path: "a/path",
        type(None): None,
        None: None,
        dict: {},
        list: [],
    }
    if isinstance(annotation, abc.Hashable) and annotation in plain:
        return plain[annotation]
    if annotation == FilePath:
        return __file__
    if origin is Annotated:
        return within(arguments[0], arguments[1:])
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return next((value for value in map(example, arguments) if value is not UNKNOWN), UNKNOWN)
    if origin is tuple:
        values = [example(one) for one in arguments if one is not ...]
        return UNKNOWN if UNKNOWN in values else values
    if origin in (list, abc.Sequence, abc.Iterable):
        inner = example(arguments[0])
        return UNKNOWN if inner is UNKNOWN else [inner]
    if origin in (dict, abc.Mapping):
        key, value = map(example, arguments)
        return UNKNOWN if UNKNOWN in (key, value) else {key: value}
    return UNKNOWN


def within(kind: Any, limits: Iterable[Any]) -> Any:
    ends = {name: getattr(limit, name) for limit in limits for name in ("ge", "gt", "le", "lt") if hasattr(limit, name)}
    given = {name: end for name, end in ends.items() if end is not None}
    if not given:  # a length, a note
        return example(kind)
    low = max(given.get("ge", -1e6), given.get("gt", -1e6))
    high = min(given.get("le", 1e6), given.get("lt", 1e6))
    return int(low) + 1 if kind is int else (low + high) / 2


def accepts(schema: dict[str, Any], name: str, value: Any) -> bool:
    try:
        check_arguments("node", {"_target_": "x.Y", "_partial_": True, name: value}, schema)
    except UserError:
        return False
    return True


@functools.cache
def read() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    return {name: (target, class_schema(target)) for name, target in every_class().items()}


def test_values_of_the_type_and_defaults_pass_and_wrong_ones_do_not() -> None:
    judged, refused, without = 0, 0, []
    for name, (target, schema) in read().items():
        parameters = inspect.signature(target).parameters
        for argument, described in schema["properties"].items():
            judged += 1
            parameter = parameters.get(argument)
            if parameter is not None and parameter.default is not parameter.empty:
                default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
                if isinstance(default, bool | int | float | str | list | dict | None):
                    assert accepts(schema, argument, default), (name, argument, default)
            annotation = parameter.annotation if parameter is not None else UNKNOWN
            value = example(annotation) if not isinstance(annotation, str) else UNKNOWN
            if value is not UNKNOWN and not name.endswith(".Trainer"):  # whose registries say more than its types
                assert accepts(schema, argument, value), (name, argument, annotation, value)
                if annotation is float:
                    assert accepts(schema, argument, 1), (name, argument)
            if {key for key in described if key != "default"}:
                refused += 1
                assert not all(accepts(schema, argument, wrong) for wrong in WRONG), (name, argument, described)
            else:
                without.append(f"{name}.{argument}")
    print(f"{len(read())} classes, {judged} arguments, {refused} with a schema, {len(without)} without: {without}")
    assert len(read()) > 130
    assert judged > 900
    assert len(without) < judged / 15


def test_unknown_and_missing_arguments_are_refused_with_the_nearest_name() -> None:
    closed, needed = 0, 0
    for name, (_, schema) in read().items():
        if not schema["additionalProperties"]:
            closed += 1
            with pytest.raises(UserError, match=r"node\.no_such_argument: "):
                check_arguments("node", {"_target_": name, "_partial_": True, "no_such_argument": 1}, schema)
        for argument in schema["required"]:
            needed += 1
            with pytest.raises(UserError, match=r"node\.\w+ has no value"):
                check_arguments("node", {"_target_": name}, schema)
            check_arguments("node", {"_target_": name, "_partial_": True}, schema)
            assert argument in schema["properties"]
    print(f"{closed} classes refuse unknown names, {needed} arguments are required")
    assert closed > 100
    assert needed > 20
    with pytest.raises(UserError, match=r"model\.hiden_sizes: MLP takes no such argument; did you mean hidden_sizes\?"):
        check_arguments("model", {"_target_": "lab.models.mlp.MLP", "hiden_sizes": [1]}, class_schema(MLP))


@dataclass
class DataclassCallback(pl.Callback):
    every: int = 10
    names: list[str] = field(default_factory=list)


class Inherited(DataclassCallback):
    pass


class Anything:
    def __init__(self, first: int, *args: Any, **kwargs: Any) -> None:
        self.first = first


class PassesOn(DataclassCallback):
    def __init__(self, own: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class ReturnsEarly:
    def __init__(self, size: int, image: Sequence[int] = (224, 224)) -> None:
        if size < 0:
            return
        self.size = size


class Mode(enum.Enum):
    FAST = "fast"


class Marked:
    def __init__(
        self,
        rate: Annotated[float, "a note of one's own"],
        drop: Probability = 0.0,
        mode: Mode | str = "fast",
        sizes: Sequence[PositiveInt] | None = None,
    ) -> None: ...


Item = TypeVar("Item")


class Box(Generic[Item]):
    def __init__(self, value: Item, items: list[Item]) -> None: ...


class Unresolvable:
    def __init__(self, thing: "Thing", other: "typing.Nothing", size: "int" = 3) -> None: ...  # type: ignore[name-defined]


class Bare:
    def __init__(self, width, image=(1, 28, 28)):  # type: ignore[no-untyped-def]
        self.width = width


class Made:
    def __new__(cls, size: int = 3) -> "Made":
        return super().__new__(cls)


class NoInit(pl.LightningModule):
    pass


class KeepsThem(pl.LightningModule):
    def __init__(self, size: int, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.kept = kwargs


class HandsThemOver(DataclassCallback):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.kept = dict(**kwargs)


class Mixes(DataclassCallback):
    def __init__(self, own: int = 1, *names: str, **kwargs: Any) -> None:
        super().__init__(names=[*names], **kwargs)
        self.joined = max(*[own, 2])


class Composed:
    def __init__(self, cfg: DictConfig | None = None, names: ListConfig | None = None) -> None: ...


class MyTrainer(pl.Trainer):
    def __init__(self, own: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Wrapped:
    @functools.wraps(ReturnsEarly.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...


RIGHT: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (DataclassCallback, {"every": 3, "names": ["a"]}),
    (Inherited, {"every": 3}),
    (Anything, {"first": 1, "whatever": [1], "_args_": [2]}),
    (Anything, {"first": 1}),
    (PassesOn, {"own": 1, "every": 2}),
    (ReturnsEarly, {"size": 1, "image": [3, 224, 224]}),
    (Marked, {"rate": 1, "drop": 0, "mode": "slow", "sizes": [1, 2]}),
    (Marked, {"rate": 0.5, "sizes": None, "mode": {"_target_": "my.Mode"}}),
    (Box, {"value": {"any": "thing"}, "items": [1, "a"]}),
    (Unresolvable, {"thing": 1, "other": [2], "size": 3}),
    (Bare, {"width": 0.5, "image": [224, 224]}),
    (Made, {"size": 3}),
    (NoInit, {}),
    (KeepsThem, {"size": 1, "whatever": 1}),
    (HandsThemOver, {"whatever": 1}),
    (Composed, {"cfg": {"a": 1}, "names": ["a"]}),
    *((MyTrainer, {"devices": devices}) for devices in (2, -1, "auto", "0,1", "2", [0, 1])),
    (Wrapped, {"size": 1, "image": [1]}),
    (functools.partial, {"anything": 1}),
]


@pytest.mark.parametrize(("target", "given"), RIGHT)
def test_what_is_right_is_never_refused(target: Callable[..., Any], given: dict[str, Any]) -> None:
    check_arguments("node", {"_target_": "my.Class", **given}, class_schema(target))


@pytest.mark.parametrize(
    ("target", "given", "key"),
    [
        (DataclassCallback, {"every": "x"}, "every"),
        (DataclassCallback, {"evry": 3}, "evry"),
        (Inherited, {"names": 3}, "names"),
        (Anything, {"first": "x"}, "first"),
        (PassesOn, {"evry": 2}, "evry"),
        (NoInit, {"whatever": 1}, "whatever"),
        (Mixes, {"evry": 2}, "evry"),
        (ReturnsEarly, {}, "size"),
        (Marked, {"rate": 1, "drop": 1}, "drop"),
        (Marked, {"rate": 1, "drop": float("nan")}, "drop"),
        (Marked, {"rate": 1, "sizes": [1, 0]}, "sizes"),
        (Marked, {"rate": True}, "rate"),
        (Unresolvable, {"thing": 1, "other": 1, "size": 2.0}, "size"),
        (Made, {"size": "x"}, "size"),
        *((MyTrainer, {"devices": devices}, "devices") for devices in (0, -2, 1.5, True, "two", [], [1, 1], [-1])),
        (Marked, {"rate": 1, "mode": 3}, "mode"),
        (Composed, {"cfg": 3}, "cfg"),
        (Wrapped, {"size": "x"}, "size"),
    ],
)
def test_what_is_wrong_is_refused_by_its_key(target: Callable[..., Any], given: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=rf"^node\.{key}"):
        check_arguments("node", {"_target_": "my.Class", **given}, class_schema(target))
