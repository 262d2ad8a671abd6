"""The one place where a config becomes objects."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from lab.errors import UserError

# Packages whose classes and functions a config may name. Add your own package here.
ALLOWED = [
    "lab",
    "pytorch_lightning",
    "torch.optim",
]


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
    for target in _targets(config):
        _authorize(target)
    try:
        return hydra_instantiate(config, _convert_="all", **kwargs)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError | TypeError):
            raise UserError(f"{config.get('_target_')} cannot be built: {cause}") from error
        raise


def instantiate_each(group: DictConfig | None) -> list[Any]:
    """What a group of named things builds; those set to null are left out."""
    return [instantiate(config) for config in (group or {}).values() if config is not None]


def _targets(config: Any) -> list[str]:
    """Every `_target_` in the tree below `config`."""
    found = []
    if isinstance(config, DictConfig | ListConfig):
        config = OmegaConf.to_container(config, resolve=True)
    if isinstance(config, dict):
        if "_target_" in config:
            found.append(str(config["_target_"]))
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            found += _targets(value)
    return found


def _authorize(target: str) -> None:
    """Refuses a target that does not stand in an allowed package, by its name and by where it was defined."""
    inside = any(target.startswith(f"{package}.") for package in ALLOWED)
    defined = getattr(get_object(target), "__module__", "") if inside else ""
    if not any(f"{defined}.".startswith(f"{package}.") for package in ALLOWED):
        raise UserError(
            f"_target_: {target} is not allowed\n"
            f"a config may name what stands in {', '.join(ALLOWED)}; ALLOWED in lab/build.py takes your own package"
        )
