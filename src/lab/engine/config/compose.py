"""Composing configs outside of Hydra's own main, and looking into what comes out."""

import math
import secrets
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lab.engine.utils.paths import CONFIGS, ROOT

OmegaConf.register_new_resolver("root", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(4), use_cache=True, replace=True)


@cache
def project_settings() -> dict[str, Any]:
    """Reads `[tool.lab]` of pyproject.toml: what this checkout adds to the engine."""
    path = ROOT / "pyproject.toml"
    settings: dict[str, Any] = tomllib.loads(path.read_text()).get("tool", {}).get("lab", {}) if path.is_file() else {}
    return settings


def _resolver(target: str) -> Callable[..., Any]:
    """Makes a resolver of a function `module:name`, whose module is imported when the resolver is first used."""
    module, _, name = target.partition(":")

    def resolve(*args: Any) -> Any:
        plain = [list(arg) if OmegaConf.is_list(arg) else arg for arg in args]
        # A node of its own, since `${dims.features}` looks into nodes only
        return OmegaConf.create(getattr(import_module(module), name)(*plain))

    return resolve


for _name, _target in project_settings().get("resolvers", {}).items():
    OmegaConf.register_new_resolver(_name, _resolver(_target), replace=True)


def compose(overrides: Sequence[str], hydra: bool = False) -> DictConfig:
    """The whole config that `overrides` make; on demand with Hydra's own part."""
    if GlobalHydra.instance().is_initialized():
        return hydra_compose("train", list(overrides), return_hydra_config=hydra)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose("train", list(overrides), return_hydra_config=hydra)


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them; `glob(*)` over a group's choices where Hydra runs."""
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None
    return OverridesParser.create(loader).parse_overrides(list(overrides))


def options(group: str) -> list[str]:
    """The choices of a config group, none where `group` is no group."""
    return [path.stem for path in sorted((CONFIGS / group).glob("*.yaml"))]


def get(config: DictConfig, key: str) -> Any:
    """The value at `key`; None where there is none, or where it hangs on a run that has not begun."""
    return OmegaConf.select(config, key, throw_on_missing=False, throw_on_resolution_failure=False)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below `node`, dotted, with its value; inner nodes too."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=False)
    for name, value in node.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
