"""What a config must hold, checked before torch is imported."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from lab.engine.config.checks.arguments import check_arguments
from lab.engine.config.checks.limits import check_every_limit
from lab.engine.config.checks.overrides import check_overrides
from lab.engine.config.checks.rules import check_rules
from lab.engine.config.compose import leaves
from lab.engine.config.instantiate import authorize_names
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import check_file
from lab.engine.utils.paths import CONFIGS


def validate(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Holds a composed config against the types of its defaults, what its targets take, what its data offers, what goes
    together and what this machine has.

    Args:
        cfg: the whole config.
        overrides: from the command line; their values are held against the types of what they replace.

    Raises:
        UserError: on the first thing that is wrong.
    """
    check_overrides(overrides)
    validate_composed(cfg, overrides)


def validate_composed(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """The part of `check` that looks at the config, not at how it came about."""
    authorize_names(cfg)
    _check_missing(cfg)
    if cfg.data.get("path") is not None:
        check_file(Path(cfg.data.path))  # before dims, which may be read from it
    _check_dims(cfg)
    check_every_limit(cfg)
    check_arguments(cfg, overrides)
    check_rules(cfg)


def _check_dims(cfg: DictConfig) -> None:
    """What the model reads of `dims` the data must offer."""
    needs, offers = _needs(OmegaConf.to_container(cfg.model, resolve=False)), set(cfg.dims)
    lacking = sorted(needs - offers)
    if lacking:
        models, datasets = _files("model"), _files("data")
        model, data = (_choice(group, cfg[group]._target_) for group in ("model", "data"))
        fitting_data = [name for name, other in datasets.items() if needs <= _offers(other)]
        fitting_models = [name for name, other in models.items() if _needs(other["model"]) <= offers]
        raise UserError(
            f"model={model} does not fit data={data}: it needs dims.{', dims.'.join(lacking)},"
            f" and the data offers {', '.join(cfg.dims)}\n"
            f"data that fits {model}: {', '.join(fitting_data) or 'none'}\n"
            f"models that fit {data}: {', '.join(fitting_models) or 'none'}"
        )


def _needs(model: Any) -> set[str]:
    return set(re.findall(r"\$\{dims\.(\w+)", str(model)))


def _offers(config: dict[str, Any]) -> set[str]:
    dims = config.get("dims", {})
    return set(dims) if isinstance(dims, dict) else set()  # else a file must be read for it


@cache
def _files(group: str) -> dict[str, dict[str, Any]]:
    """Every choice of a group as it stands in its file; OmegaConf would take seven times as long to read them."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return {path.stem: yaml.load(path.read_text(), loader) for path in sorted((CONFIGS / group).glob("*.yaml"))}


def _choice(group: str, target: str) -> str:
    """The name of the choice that has this class."""
    return next((name for name, config in _files(group).items() if config[group]["_target_"] == target), target)


def _check_missing(cfg: DictConfig) -> None:
    missing = [key for key, value in leaves(cfg) if value == "???"]
    if missing:
        raise UserError(f"{missing[0]} has no value: give one, {missing[0]}=…")
