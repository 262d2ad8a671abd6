"""Resumes a sweep: `python src/train.py sweep.resume=latest`, alone or with the command that began it.

What a sweep varies, and what its jobs share, must not change; where it runs, and for how long, may. `sweep.json` is
data: its overrides may not be of Hydra's config, and the launcher's config in it may not run a command.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lab.engine.config.compose import compose, get, leaves, options, parse
from lab.engine.config.identity import ABSENT, PLACE, differences
from lab.engine.config.overrides import is_hydras, override_key, raw_overrides
from lab.engine.config.security import SHELL
from lab.engine.config.tree import is_under
from lab.engine.sweeps.space import MANY, Space
from lab.engine.sweeps.sweep import FILE, Sweep
from lab.engine.utils.errors import UserError
from lab.engine.utils.formats import check_format

FREE = ("n_trials", "timeout", "max_failure_rate", "n_jobs", "max_batch_size")  # of the sweeper
PLAIN = re.compile(r"[\w.,:@%=+&|*()\[\]-]*")  # a launcher's text that no shell and no batch script takes apart
OURS = ("resume", "attach", "changes", "sweep.resume")  # how a sweep or a run is begun


def begun_sweep(config: DictConfig) -> Sweep | None:
    """Returns the sweep that the command line resumes; None for a new one."""
    if not config.sweep.resume:
        return None
    sweep = Sweep(Path(config.hydra.sweep.dir).resolve())
    check_format(sweep.metadata, sweep.dir / FILE)
    return sweep


def sweep_config(config: DictConfig) -> tuple[DictConfig, list[str]]:
    """Returns the config and the overrides of a sweep; a resumed one has those it recorded, changed by today's.

    Args:
        config: as Hydra composed it for the command line, its `hydra` node included.

    Raises:
        UserError: when what is recorded could be more than data.
    """
    overrides = [o for o in raw_overrides(config.hydra.overrides.task) if override_key(o) != "sweep.resume"]
    sweep = begun_sweep(config)
    if sweep is None:
        return config, overrides
    metadata = sweep.metadata
    stored = check_stored(sweep, metadata.get("overrides", []))
    overrides = list({override_key(override): override for override in [*stored, *overrides]}.values())
    config = config.copy()
    with read_write(config), open_dict(config):
        config.hydra.sweeper = _merge_sweeper(metadata, config)
        if (launcher := metadata.get("launcher", {})).get("choice") == config.hydra.runtime.choices.get(
            "hydra/launcher"
        ):
            typed = {override_key(override) for override in raw_overrides(config.hydra.overrides.hydra)}
            for key, value in safe_launcher_config(launcher.get("settings", {}), config).items():
                if f"hydra.launcher.{key}" not in typed:
                    OmegaConf.update(config.hydra.launcher, key, value)
    return config, overrides


def check_stored(sweep: Sweep, overrides: Sequence[Any]) -> list[str]:
    """Returns the overrides that a sweep recorded, and refuses those that are not of its jobs' config.

    Raises:
        UserError: with the one that is a flag, about Hydra, or no override at all.
    """
    for override in overrides:
        if not isinstance(override, str) or is_hydras(override) or override_key(override) in OURS:
            raise UserError(f"{sweep.dir / FILE}: {override!r} is no override of a job's config; not taken from a file")
    parse(overrides)
    return list(overrides)


def safe_launcher_config(node: Any, config: DictConfig) -> dict[str, Any]:
    """Returns the part of a launcher's config that a sweep records, by key: plain values of keys that run nothing.

    Args:
        node: the launcher's config.
        config: whose `hydra.launcher` has every key that there is.
    """
    known = dict(leaves(config.hydra.launcher)) if config.hydra.launcher else {}
    return {
        key: value
        for key, value in (leaves(node) if node else ())
        if key in known
        and not {*key.split(".")} & {*SHELL, "_target_"}
        and (value is None or isinstance(value, int | float) or (isinstance(value, str) and PLAIN.fullmatch(value)))
    }


def sweep_metadata(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the metadata that a sweep records, and that must not change when it is resumed.

    Args:
        config: of the sweep, its `hydra` node included.
        overrides: of the task, swept ones included.
    """
    sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    params = sweeper.pop("params", None) or {}
    space = Space.parse(overrides, params, sweeper.get("when"))
    texts = {key: str(text) for key, text in params.items()}  # those of one value as well
    return {
        "overrides": list(overrides),
        "space": texts | {key: parameter.text for key, parameter in space.parameters.items()},
        "hydra": {"sweeper": sweeper | {"params": params}},
        "config": _plain(compose(space.fixed)),
        "choices": choice_configs(space),
        "launcher": {
            "choice": config.hydra.runtime.choices.get("hydra/launcher"),
            "settings": safe_launcher_config(config.hydra.launcher, config),
        },
    }


def choice_configs(space: Space) -> dict[str, Any]:
    """Composes each choice of a group that a sweep varies, to detect later whether its file has changed."""
    usual = _plain(compose([]))
    choices = {
        f"{parameter.override_key}={text}"
        for parameter in space.parameters.values()
        if (known := options(parameter.key.partition("@")[0]))
        for text in parameter.samples(MANY)
        if text in known
    }
    composed = {choice: differences(_plain(compose([choice])), usual) for choice in sorted(choices)}
    return {
        choice: {key: value for key, value, _ in found if value is not ABSENT and not is_under(key, PLACE)}
        for choice, found in composed.items()
    }


def check_same(sweep: Sweep, config: DictConfig, overrides: Sequence[str], asked: bool) -> bool:
    """Tells whether a sweep is resumed, and refuses to resume it as another sweep than its directory holds.

    Args:
        sweep: in the directory that is to hold the sweep.
        config: of `sweep_config`.
        overrides: of `sweep_config`.
        asked: whether the command line says `sweep.resume=`.

    Raises:
        UserError: when it is another, with what differs, or when the directory holds a sweep already.
    """
    metadata = sweep.metadata
    if not metadata:
        return False
    if not asked:
        raise UserError(
            f"{sweep.dir} holds a sweep already: go on with it by sweep.resume={quote(str(sweep.dir))},"
            " or choose another hydra.sweep.dir"
        )
    now, free = sweep_metadata(config, overrides), [f"sweeper.{key}" for key in (*FREE, "params")]
    changed = [
        f"{key}: {_shown(before)} then, {_shown(today)} now"
        for part, ignored in (("space", ()), ("hydra", free), ("choices", ()), ("config", PLACE))
        for key, today, before in differences(now[part], metadata.get(part, now[part]))
        if not is_under(key, ignored)
    ]
    if changed:
        raise UserError(
            f"sweep.resume={sweep.dir}: this would be another sweep\n  "
            + "\n  ".join(changed[:8])
            + "\nput it back as it was, or begin a new sweep without sweep.resume="
        )
    return True


def _merge_sweeper(metadata: dict[str, Any], config: DictConfig) -> DictConfig:
    """Returns the recorded `hydra.sweeper`, changed by today's overrides; its class is the composed one."""
    made = OmegaConf.create({**metadata.get("hydra", {}).get("sweeper", {}), "_target_": config.hydra.sweeper._target_})
    for override in parse(raw_overrides(config.hydra.overrides.hydra)):
        key = override.key_or_group.replace("/", ".").removeprefix("hydra.sweeper.")
        if override.key_or_group.startswith(("hydra.sweeper.", "hydra/sweeper/")):
            OmegaConf.update(made, key, get(config.hydra.sweeper, key), merge=False, force_add=True)
    return made


def _plain(config: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return plain


def _shown(value: Any) -> str:
    return "nothing" if value is ABSENT else str(value)
