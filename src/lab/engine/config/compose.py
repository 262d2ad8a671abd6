"""Composes configs outside of `hydra.main`, and reads their keys."""

import math
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from lab.engine.config.composition_errors import composition_errors
from lab.engine.config.overrides import override_key
from lab.engine.config.security import authorize
from lab.engine.utils.console import ignore_known_warnings
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import CONFIGS, ROOT
from lab.engine.utils.project import project_settings

OmegaConf.register_new_resolver("root", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
OmegaConf.register_new_resolver("unique", lambda *scope: secrets.token_hex(4), use_cache=True, replace=True)


def _resolver(target: str) -> Callable[..., Any]:
    """Makes a resolver of a function `module:name`; its module is imported when the resolver is first used."""
    module, _, name = target.partition(":")

    def resolve(*args: Any) -> Any:
        plain = [list(arg) if OmegaConf.is_list(arg) else arg for arg in args]
        value = getattr(import_module(module), name)(*plain)
        # A node, since `${dims.features}` reads keys of nodes only
        return OmegaConf.create(value) if isinstance(value, dict | list) else value

    return resolve


for _name, _target in project_settings().get("resolvers", {}).items():
    OmegaConf.register_new_resolver(_name, _resolver(_target), replace=True)


def compose(
    overrides: Sequence[str],
    hydra: bool = False,
    name: str | None = "train",
    multirun: bool = False,
    trusted: Sequence[str] | None = None,
) -> DictConfig:
    """Composes the whole config that `overrides` make, and refuses a harmful one; see `security.authorize`.

    Args:
        overrides: of the command line, without flags.
        hydra: whether the `hydra` node is returned as well.
        name: of the primary config; None for the `hydra` node alone.
        multirun: whether keys may have several values, which are a sweep's, and left out.
        trusted: those of the overrides that the command line gave; all by default.

    Raises:
        UserError: for what Hydra cannot compose, or `security.authorize` refuses.
    """
    if not GlobalHydra.instance().is_initialized():
        with initialize_config_dir(str(CONFIGS), job_name="train", version_base="1.3"):
            return compose(overrides, hydra, name, multirun, trusted)
    with composition_errors(lambda: known_keys(overrides)):
        try:
            config = _load(overrides, name, RunMode.MULTIRUN if multirun else RunMode.RUN)
        except ValueError as error:  # an invalid defaults list
            raise UserError(str(error)) from error
    authorize(config, overrides, trusted)
    if not hydra:
        with open_dict(config):
            del config["hydra"]
    return config


def find_log_dir(overrides: Sequence[str] = ()) -> Path:
    """Returns the directory of all runs: `paths.log_dir`, as configs/ and these overrides set it.

    Args:
        overrides: of a command line. Those of a resumed run's config may fit that alone: only choices of groups and
            `paths` are looked at.
    """
    where = [o for o in overrides if options(override_key(o)) or override_key(o).startswith("paths.")]
    return Path(compose(where, multirun=True).paths.log_dir)


def known_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """Returns every group, and every key and value of the config composed with the choices among `overrides`."""
    choices = [override for override in overrides if "=" in override and options(override.split("=")[0])]
    groups = {path.name: None for path in CONFIGS.iterdir() if path.is_dir()}
    for attempt in (choices, []):
        with suppress(HydraException, ValueError):
            return groups | dict(leaves(_load(attempt)))
    return groups


def _load(overrides: Sequence[str], name: str | None = "train", mode: RunMode = RunMode.RUN) -> DictConfig:
    with warnings.catch_warnings():
        ignore_known_warnings()
        return GlobalHydra.instance().config_loader().load_configuration(name, list(overrides), mode)


def search_path(config: DictConfig) -> list[str]:
    """Returns the override that added folders of configs, so that another config is composed with the same ones."""
    return [override for override in map(str, config.hydra.overrides.hydra) if override.startswith("hydra.searchpath=")]


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parses overrides as Hydra does; `glob(*)` over a group's choices where Hydra runs."""
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None
    with composition_errors():
        return OverridesParser.create(loader).parse_overrides(list(overrides))


def options(group: str) -> list[str]:
    """Returns the choices of a config group; none where `group` is no group."""
    return [path.stem for path in sorted((CONFIGS / group).glob("*.yaml"))]


def get(config: DictConfig, key: str) -> Any:
    """Returns the value at `key`; None where there is none, or where it depends on a run that has not begun."""
    return OmegaConf.select(config, key, throw_on_missing=False, throw_on_resolution_failure=False)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every key below `node`, dotted, with its value; inner nodes too."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=False)
    for name, value in node.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
