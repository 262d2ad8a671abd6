"""Builds objects from configs, which may come from elsewhere: from the allowed classes alone."""

import inspect
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from lab.engine.compat.aliases import import_foreign, real_target
from lab.engine.config.schema_cache import cached_schema
from lab.engine.config.tree import is_under, values
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest
from lab.engine.utils.paths import ROOT
from lab.engine.utils.project import project_settings

# Packages whose public classes a config may name, or single classes: these, every package of this checkout's src/, and
# `allow` of [tool.lab] in pyproject.toml. Not pytorch_lightning.cli, which would read another command line; nor
# torchvision.datasets and timm, some of whose classes and functions load pickles
ADD_TO_ALLOWED = "allow in [tool.lab] of pyproject.toml"
ALLOWED = [
    "pytorch_lightning.Trainer",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.demos",
    "pytorch_lightning.loggers",
    "pytorch_lightning.plugins",
    "pytorch_lightning.profilers",
    "pytorch_lightning.strategies",
    "torch.optim",
    "torchmetrics",
    "torchvision.models",
    *(path.parent.name for path in sorted((ROOT / "src").glob("*/__init__.py"))),
    *project_settings().get("allow", []),
]
# Modules, or packages of them, whose public functions a config may name, too: those that only make something
FACTORIES = list(project_settings().get("factories", []))


def instantiate(config: Any, **kwargs: Any) -> Any:
    """Builds what `config` describes; its lists and dictionaries are passed as plain Python ones.

    Args:
        config: a node of the run's config, None for None.
        **kwargs: more arguments of the outermost target.

    Raises:
        UserError: a target that is not allowed, or arguments that its constructor does not take. What a constructor
            itself raises is raised as it is.
    """
    if config is None:
        return None
    # Interpolations are resolved once, here, so that what is checked is what is built
    plain: Any = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    for target in targets(plain):
        _check_arguments(target, kwargs if target is plain else {})
        target["_target_"] = real_target(target["_target_"])
    if kwargs:  # Hydra would make a dictionary of one that is a dataclass
        plain = {key: value for key, value in plain.items() if key not in kwargs} | {"_partial_": True}
    node: Any = OmegaConf.create(plain, flags={"allow_objects": True})  # type: ignore[call-overload]
    try:
        built = hydra_instantiate(node, _convert_="all")
        return built(**kwargs) if kwargs else built
    except InstantiationException as error:
        raise (error.__cause__ or error) from None


def instantiate_each(group: DictConfig | None) -> list[Any]:
    """Builds every node of a group; those set to null are left out."""
    return [instantiate(config) for config in (group or {}).values() if config is not None]


def build_model(cfg: DictConfig, **known: Any) -> Any:
    """Builds the model of `cfg`, with factories of the optimizer and the scheduler if its constructor takes them.

    Args:
        cfg: the whole config.
        **known: arguments that stand in for the config's; passed as they are, nothing in them is built.
    """
    takes = _parameters(cfg)
    factories = {"optimizer": cfg.optimizer, "scheduler": cfg.scheduler}
    more = {name: instantiate(node) for name, node in factories.items() if name in takes} | known
    node = {key: _plain(cfg.model[key]) for key in map(str, cfg.model) if key not in known}
    _check_arguments(node, more)
    return instantiate(node, **more)


def drop_unused_factories(cfg: DictConfig) -> None:
    """Sets `optimizer` and `scheduler` to null where the model's constructor takes none, and so has a
    `configure_optimizers` of its own.

    Raises:
        UserError: when one was chosen on the command line.
    """
    takes = _parameters(cfg)
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    for name in ("optimizer", "scheduler"):
        if name in takes or cfg[name] is None:
            continue
        for override in map(str, overrides):
            if re.match(rf"[+~]*{name}(@[\w.]*)?[.=]", override):
                raise UserError(
                    f"{override}: {cfg.model._target_} takes no {name}, its own configure_optimizers decides:"
                    " leave it out, or give its constructor an argument of that name"
                )
        with open_dict(cfg):
            cfg[name] = None


def targets(plain: Any) -> Iterator[dict[str, Any]]:
    """Yields every node with a `_target_` in a tree of plain dictionaries and lists.

    Raises:
        UserError: when a text still holds an interpolation, which would be resolved unseen.
    """
    if isinstance(plain, dict):
        if "_target_" in plain:
            yield plain
        for value in plain.values():
            yield from targets(value)
    elif isinstance(plain, list | tuple):
        for value in plain:
            yield from targets(value)
    elif isinstance(plain, str) and "${" in plain:
        raise UserError(f"{plain!r} hides an interpolation: write it without a backslash")


def locate(target: Any, allowed: Sequence[str] | None = None, remedy: str = ADD_TO_ALLOWED) -> Any:
    """Imports the class or the function that a config names.

    Args:
        target: its full name: a module's, and that of what this module defines.
        allowed: packages and single classes that it may come from, `ALLOWED` by default.
        remedy: which list takes more of them, for the message.

    Raises:
        UserError: when it stands elsewhere, by its name or by where it was defined, or is no public class.
    """
    allowed = ALLOWED if allowed is None else allowed
    target = real_target(target)
    authorize_name(target, allowed, remedy)
    module_name, _, name = target.rpartition(".")
    try:
        located = getattr(import_foreign(module_name), name)
    except (ImportError, AttributeError) as error:
        missing = getattr(error, "name", None) or ""
        if isinstance(error, ImportError) and not f"{module_name}.".startswith(f"{missing}."):
            raise  # the module is there, and cannot import something
        known = vars(sys.modules[module_name]) if module_name in sys.modules else {}
        raise UserError(f"_target_: {target}: no such class{nearest(name, known)}") from error
    if any(is_under(base.__module__, ["lightning"]) for base in getattr(located, "__mro__", ())):
        raise UserError(
            f"_target_: {target}: its classes are those of the package lightning, and not pytorch_lightning's: start"
            " again without importing lightning before, and lab makes that name stand for pytorch_lightning"
        )
    home = str(getattr(located, "__module__", ""))
    # A single class may be named by another module than the one that defines it; a package's own classes may not
    is_allowed = target in allowed or any(is_under(target, [one]) and is_under(home, [one]) for one in allowed)
    is_class = inspect.isclass(located) and located.__qualname__ == located.__name__
    is_factory = inspect.isfunction(located) and home == module_name and is_under(home, FACTORIES)
    if not (is_allowed and (is_class or is_factory)):
        raise _refusal(target, allowed, remedy)
    return located


def authorize_name(target: Any, allowed: Sequence[str] | None = None, remedy: str = ADD_TO_ALLOWED) -> None:
    """Refuses a target that is not allowed by its name; imports nothing. See `locate`."""
    allowed = ALLOWED if allowed is None else allowed
    target = real_target(target)
    public = isinstance(target, str) and re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", target)
    if not (public and is_under(target, allowed)):
        raise _refusal(target, allowed, remedy)
    module = target.rpartition(".")[0]
    if not _is_module(module):
        raise UserError(
            f"_target_: {target} is not allowed: there is no module {module}; a package needs an __init__.py"
        )


def authorize_names(config: DictConfig) -> None:
    """Refuses a config that names a target which is not allowed, before torch is imported.

    `instantiate` checks again, and what interpolations bring in as well.
    """
    for key, value in values(OmegaConf.to_container(config, resolve=False)):
        if re.search(r"(^|\.)_target_(\.|\[|$)", key) and value not in ("???", None):
            try:
                authorize_name(OmegaConf.select(config, key) if "${" in str(value) else value)
            except UserError as error:
                raise UserError(f"{key.removesuffix('_target_')}{error}") from error


def _parameters(cfg: DictConfig) -> Collection[str]:
    """Returns the names of the arguments that the model's constructor takes."""
    model = locate(cfg.model._target_)
    schema = cached_schema(cfg.model._target_)
    if schema is None:
        from lab.engine.config.schema import class_schema  # pydantic loads here: 0.2 s

        schema = class_schema(model)
    properties: dict[str, Any] = schema["properties"]
    return properties


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _check_arguments(node: dict[str, Any], more: dict[str, Any]) -> None:
    """Refuses arguments that do not fit the signature of a node's target."""
    target = locate(node["_target_"])
    named = {name: value for name, value in node.items() if not (name.startswith("_") and name.endswith("_"))} | more
    try:
        signature = inspect.signature(target)
    except ValueError:  # some of those written in C have none
        return
    try:
        (signature.bind_partial if node.get("_partial_") else signature.bind)(*node.get("_args_", []), **named)
    except TypeError as error:
        raise UserError(f"{node['_target_']}: {error}") from None


def _is_module(name: str) -> bool:
    """Tells whether there is a module of this name, without importing it."""
    path: Any = None
    parts = name.split(".")
    for i in range(len(parts)):
        inner = ".".join(parts[: i + 1])
        specs = (finder.find_spec(inner, path, None) for finder in sys.meta_path)
        spec = next((spec for spec in specs if spec), None)
        if spec is None or (i + 1 < len(parts) and spec.submodule_search_locations is None):
            return False
        path = spec.submodule_search_locations
    return True


def _refusal(target: Any, allowed: Sequence[str], remedy: str) -> UserError:
    return UserError(
        f"_target_: {target} is not allowed\n"
        f"a config may name public classes of {', '.join(allowed)}; {remedy} takes your own package"
    )
