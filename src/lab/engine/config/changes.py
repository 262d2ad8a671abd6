"""Changes a saved config by the overrides of a new command line."""

from collections.abc import Collection, Mapping, Sequence
from inspect import signature
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lab.engine.config.compose import compose, leaves, options, parse
from lab.engine.config.composition_errors import UnknownKey
from lab.engine.config.identity import ABSENT, differences
from lab.engine.config.run_config import run
from lab.engine.utils.errors import UserError


def merge_changes(config: DictConfig, changes: Sequence[str], choices: Mapping[str, Any]) -> DictConfig:
    """Merges overrides into a saved config; all other keys keep their values.

    A choice of a group changes the keys at which configs/ composed with and without it differ.

    Args:
        config: interpolations unresolved.
        changes: overrides of one run.
        choices: of the saved config, by group, as `.hydra/hydra.yaml` records them.

    Raises:
        UserError: for a key or a choice that is not there, several values, and what is Hydra's own.
    """
    merged = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    assert isinstance(merged, DictConfig)
    parsed = parse(changes)
    for override in parsed:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: one run takes one value")
        if override.key_or_group.partition(".")[0].partition("/")[0] == "hydra":
            raise UserError(f"{override.input_line}: this is no part of a run's config")
    groups = {o.key_or_group: o.input_line or "" for o in parsed if options(o.key_or_group)}
    if groups:
        without = chosen(choices, groups)
        now, then = (
            OmegaConf.to_container(compose(list(one.values())), resolve=False) for one in (without | groups, without)
        )
        for key, value, _ in differences(now, then):  # type: ignore[arg-type]
            _put(merged, key, value)
    for override in parsed:
        if override.key_or_group not in groups:
            _apply(merged, override)
    return merged


def chosen(choices: Mapping[str, Any], needed: Collection[str] = ()) -> dict[str, str]:
    """Returns recorded choices as overrides, by group; leaves out those that configs/ does not have.

    Raises:
        UserError: for such a choice of a group that is `needed`.
    """
    overrides = {}
    for group, choice in choices.items():
        known = options(group) if not group.startswith("hydra") else []
        names = [] if choice is None else choice if isinstance(choice, list) else [choice]
        if not known or (choice is None and group in signature(run).parameters):  # the latter by another group's file
            continue
        if unknown := [name for name in names if name not in known]:  # of another folder, or deleted since
            if group in needed:
                raise UserError(f"{group}={unknown[0]}: the run was made with this choice, and configs/ has it not")
            continue
        value = f"[{','.join(names)}]" if isinstance(choice, list) else choice
        overrides[group] = f"~{group}" if choice is None else f"{group}={value}"
    return overrides


def _apply(config: DictConfig, override: Override) -> None:
    key = override.key_or_group
    known = dict(leaves(config))
    if key not in known and not (override.is_add() or override.is_force_add()):
        raise UnknownKey(key, known, "the run's .hydra/config.yaml shows")
    if override.is_delete():
        _put(config, key, ABSENT)
    else:
        OmegaConf.update(config, key, override.value(), force_add=True)


def _put(config: DictConfig, key: str, value: Any) -> None:
    if value is not ABSENT:
        OmegaConf.update(config, key, value, merge=False, force_add=True)
        return
    above, _, name = key.rpartition(".")
    node = OmegaConf.select(config, above) if above else config
    if isinstance(node, DictConfig):
        node.pop(name, None)
