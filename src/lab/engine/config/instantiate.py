"""The one place where a config becomes objects, and the lists of what a config may name.

A config may come from elsewhere: it can choose among these classes, and cannot run anything else.
"""

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pickle import UnpicklingError
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, OmegaConf

from lab.engine.utils.errors import UserError

# Packages whose public classes a config may name, or single classes. Add your own package here: it is enough that it
# can be imported.
ADD_TO_ALLOWED = "ALLOWED in lab/engine/config/instantiate.py"
ALLOWED = [
    "lab",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "pytorch_lightning.plugins",
    "pytorch_lightning.profilers",
    "pytorch_lightning.strategies",
    "torch.optim",
]
# Modules whose public functions it may name, too: those that make something and do nothing else.
FACTORIES = ["lab.optim.optimizers", "lab.optim.schedulers"]


def instantiate(config: Any, **kwargs: Any) -> Any:
    """Builds what `config` describes; lists and dictionaries arrive as plain Python ones.

    Args:
        config: a node of the run's config, None for None.
        **kwargs: more arguments of the outermost target.

    Raises:
        UserError: a target that is not allowed, or arguments that its constructor refuses.
    """
    if config is None:
        return None
    if not OmegaConf.is_config(config):
        config = OmegaConf.create(config)
    # Interpolations are resolved once, here: what is looked at is what is built
    plain = OmegaConf.to_container(config, resolve=True)
    for target in targets(plain):
        locate(target)
    node: Any = OmegaConf.create(plain, flags={"allow_objects": True})  # type: ignore[call-overload]
    try:
        return hydra_instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError | UnpicklingError):  # told as they are: a file that holds code
            raise cause from None
        if isinstance(cause, ValueError | TypeError):
            raise UserError(f"{node.get('_target_')} cannot be built: {cause}") from error
        raise


def instantiate_each(group: DictConfig | None) -> list[Any]:
    """What a group of named things builds; those set to null are left out."""
    return [instantiate(config) for config in (group or {}).values() if config is not None]


def targets(plain: Any) -> Iterator[Any]:
    """Every `_target_` in a tree of plain dictionaries and lists.

    Raises:
        UserError: when a text still holds an interpolation, which would be resolved unseen.
    """
    if isinstance(plain, dict):
        if "_target_" in plain:
            yield plain["_target_"]
        for value in plain.values():
            yield from targets(value)
    elif isinstance(plain, list | tuple):
        for value in plain:
            yield from targets(value)
    elif isinstance(plain, str) and "${" in plain:
        raise UserError(f"{plain!r} hides an interpolation: write it without a backslash")


def locate(target: Any, allowed: Sequence[str] | None = None, remedy: str = ADD_TO_ALLOWED) -> Any:
    """The class, or the factory, that a config names.

    Args:
        target: its full name: a module's, and that of what this module defines.
        allowed: packages and single classes that it may come from, `ALLOWED` by default.
        remedy: which list takes more of them, for the message.

    Raises:
        UserError: when it stands elsewhere, by its name or by where it was defined, or is no public class.
    """
    allowed = ALLOWED if allowed is None else allowed
    authorize_name(target, allowed, remedy)
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        missing = getattr(error, "name", None) or ""
        if isinstance(error, ImportError) and not f"{module_name}.".startswith(f"{missing}."):
            raise  # it is there, and lacks something that it imports
        raise _refusal(target, allowed, remedy) from error
    home = str(getattr(found, "__module__", ""))
    # A single class may stand under another name than where it was defined; a package's own classes may not
    own = target in allowed or any(_inside(target, package) and _inside(home, package) for package in allowed)
    is_class = inspect.isclass(found) and found.__qualname__ == found.__name__
    is_factory = inspect.isfunction(found) and home == module_name and home in FACTORIES
    if not (own and (is_class or is_factory)):
        raise _refusal(target, allowed, remedy)
    return found


def authorize_name(target: Any, allowed: Sequence[str] | None = None, remedy: str = ADD_TO_ALLOWED) -> None:
    """Refuses a target whose very name says that it is not allowed; nothing is imported. See `locate`."""
    allowed = ALLOWED if allowed is None else allowed
    public = isinstance(target, str) and re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", target)
    inside = public and (target in allowed or any(_inside(target, package) for package in allowed))
    if not (inside and _is_module(target.rpartition(".")[0])):
        raise _refusal(target, allowed, remedy)


def authorize_names(config: Any) -> None:
    """Refuses a config that names a target which is not allowed, before anything heavy is imported.

    `instantiate` looks closer, and at what interpolations bring in as well.
    """
    if not OmegaConf.is_config(config):
        return
    for key in list(config) if OmegaConf.is_dict(config) else range(len(config)):
        if OmegaConf.is_missing(config, key):
            continue
        if key == "_target_":
            authorize_name(config[key])
        elif not OmegaConf.is_interpolation(config, key):
            authorize_names(config[key])


def _is_module(name: str) -> bool:
    """Whether there is a module of this name, and no class or import of a module's; none of them is imported."""
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


def _inside(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _refusal(target: Any, allowed: Sequence[str], remedy: str) -> UserError:
    return UserError(
        f"_target_: {target} is not allowed\n"
        f"a config may name public classes of {', '.join(allowed)}; {remedy} takes your own package"
    )
