"""Checks overrides for mistakes that the composed config no longer shows."""

import re
from collections.abc import Sequence
from inspect import signature
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lab.engine.config.compose import get, leaves, options, parse
from lab.engine.config.run_config import NODES, run
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

NAMED = ("callbacks", "logger", "paths", "dims", *filter(None, NODES))  # take any name, or have a signature


def check_overrides(overrides: Sequence[str], cfg: DictConfig) -> None:
    """Refuses two choices of one group, and a new key that nothing reads.

    Args:
        overrides: of the command line.
        cfg: what they make.

    Raises:
        UserError: on the first that is wrong.
    """
    parsed = parse(overrides)
    check_groups(parsed)
    for override in parsed:
        key = override.key_or_group
        is_new = override.is_add() or override.is_force_add()
        is_choice = isinstance(override.value(), str) and OmegaConf.is_dict(get(cfg, key))  # of the user's own group
        if is_new and not (override.is_hydra_override() or is_choice or is_read(key, cfg)):
            known = [name for name, _ in leaves(cfg) if name != key]
            raise UserError(
                f"+{key}: nothing reads this key{nearest(key, known)}\n`python src/train.py --cfg job` shows all"
            )


def is_read(key: str, cfg: DictConfig) -> bool:
    """Tells whether a key of a config is an argument, has its own check, is interpolated, or chose a file."""
    parts = key.split(".")
    if parts[0] in NAMED or key in signature(run).parameters:
        return True
    above = [get(cfg, ".".join(parts[:i])) for i in range(1, len(parts))]
    if any(isinstance(node, DictConfig) and "_target_" in node for node in above):
        return True
    is_choice = "/" in key or OmegaConf.select(cfg, key, throw_on_resolution_failure=False) is None
    text = str(OmegaConf.to_container(cfg, resolve=False))
    return is_choice or re.search(rf"\$\{{[^}}]*\b{re.escape(key)}\b", text) is not None


def check_groups(overrides: Sequence[Override]) -> None:
    """Refuses an unknown choice of a group, and two of one group, of which Hydra would silently take the last.

    Raises:
        UserError: with the override, or with both.
    """
    choices: dict[str, Any] = {}
    for override in overrides:
        group, value = override.key_or_group, override.value()
        if override.is_delete() and group in signature(run).parameters:
            raise UserError(f"~{group}: every run has one; {group}=none where --help lists it, or {group}.KEY=null")
        if not options(group) or isinstance(value, dict):  # the latter changes keys
            continue
        if not (override.is_delete() or override.is_sweep_override() or isinstance(value, str | list)):
            raise UserError(f"{override.input_line}: expected the name of a choice; `--help` lists those of each group")
        if choices.setdefault(group, str(value)) != str(value):
            raise UserError(f"{group} is chosen twice: {group}={choices[group]} and {group}={value}; leave one out")
