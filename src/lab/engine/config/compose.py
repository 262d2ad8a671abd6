"""Composes configs outside of `hydra.main`, and reads their keys."""

import math
import os
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
from lab.engine.config.overrides import override_key, raw_overrides, to_override
from lab.engine.config.security import authorize
from lab.engine.utils.console import ignore_known_warnings
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import CONFIGS, ROOT
from lab.engine.utils.project import project_settings
from lab.engine.utils.redaction import command_line

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

    Folders that the command line adds by `hydra.searchpath` are searched for every config that is composed.

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
    if not any(map(_is_search_path, overrides)):
        overrides = [*[o for o in command_line() if _is_search_path(o)][-1:], *overrides]
    with composition_errors(lambda: known_keys(overrides)):
        try:
            config = _load(overrides, name, RunMode.MULTIRUN if multirun else RunMode.RUN)
        except UnicodeDecodeError:
            raise
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
        overrides: of a command line. Those of a resumed run's config may fit that alone: only choices of groups,
            `paths` and the search path are looked at.
    """
    keys = [(override_key(override), override) for override in overrides]
    where = [o for key, o in keys if options(key) or key.startswith("paths.") or key == "hydra.searchpath"]
    return Path(compose(where, multirun=True).paths.log_dir)


def known_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """Returns every group, and every key and value of the config composed with the choices among `overrides`."""
    choices = [o for o in overrides if "=" in o and (options(o.split("=")[0]) or _is_search_path(o))]
    groups = {path.name: None for path in CONFIGS.iterdir() if path.is_dir()}
    for attempt in (choices, []):
        with suppress(HydraException, ValueError):
            return groups | dict(leaves(_load(attempt)))
    return groups


def _load(overrides: Sequence[str], name: str | None = "train", mode: RunMode = RunMode.RUN) -> DictConfig:
    with warnings.catch_warnings():
        ignore_known_warnings()
        return GlobalHydra.instance().config_loader().load_configuration(name, list(overrides), mode)


def with_search_path(overrides: Sequence[Override], config_dir: str | None, primary: Path) -> list[str]:
    """Returns the overrides with `--config-dir` first in `hydra.searchpath`, where Hydra puts it.

    Args:
        overrides: parsed.
        config_dir: what `--config-dir` gives; None where it is not given.
        primary: the file of the primary config, which may say more of the search path.
    """
    lines = [str(override.input_line) for override in overrides]
    if config_dir is None:
        return lines
    overridden = [o.value() for o in overrides if o.get_key_element() == "hydra.searchpath"]
    default = OmegaConf.select(OmegaConf.load(primary), "hydra.searchpath") if primary.is_file() else None
    others: Any = overridden[0] if overridden else default
    search_path = [f"file://{os.path.abspath(config_dir)}", *(others or [])]
    rest = [line for line in lines if not _is_search_path(line)]
    return [f"hydra.searchpath={to_override(search_path)}", *rest]


def search_path(config: DictConfig) -> list[str]:
    """Returns the override that added folders of configs, so that another config is composed with the same ones."""
    return list(filter(_is_search_path, raw_overrides(config.hydra.overrides.hydra)))


def _is_search_path(override: str) -> bool:
    return override_key(override) == "hydra.searchpath"


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
