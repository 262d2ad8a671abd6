"""Going on with a sweep: `python src/train.py sweep.resume=latest`, alone or with the command that began it.

What a sweep varies, and everything that its jobs share, stays as it was; where it runs, and for how long, may change.
`sweep.json` is data: of its overrides none may be about Hydra, and of a launcher's settings none may run a command.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lab.engine.config.compose import compose, get, leaves, options, parse
from lab.engine.config.identity import ABSENT, PLACE, differences
from lab.engine.config.overrides import is_hydras, override_key, raw_overrides
from lab.engine.config.security import SHELL
from lab.engine.config.tree import is_under
from lab.engine.sweeps.space import Space
from lab.engine.sweeps.sweep import FILE, Sweep
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import read_yaml
from lab.engine.utils.formats import check_format
from lab.engine.utils.paths import CONFIGS

FREE = ("n_trials", "timeout", "max_failure_rate", "n_jobs", "max_batch_size")  # of the sweeper
PLAIN = re.compile(r"[\w.,:@%=+&|*()\[\]-]*")  # a launcher's text that no shell and no batch script takes apart
OURS = ("resume", "attach", "changes", "sweep.resume")  # how a sweep or a run is begun


def asks(override: str) -> bool:
    """Tells whether an override is `sweep.resume=…`."""
    return override_key(override) == "sweep.resume"


def begun_sweep(config: DictConfig) -> Sweep | None:
    """Returns the sweep that the command line asks to go on with; None for a new one."""
    if not config.sweep.resume:
        return None
    sweep = Sweep(Path(config.hydra.sweep.dir).resolve())
    check_format(sweep.record, sweep.dir / FILE)
    return sweep


def whole_sweep(config: DictConfig) -> tuple[DictConfig, list[str]]:
    """Returns the config and the overrides of a sweep: of one that goes on what it recorded, under what is typed now.

    Args:
        config: as Hydra composed it for the command line, its `hydra` node included.

    Raises:
        UserError: when what is recorded could be more than data.
    """
    overrides = [word for word in raw_overrides(config.hydra.overrides.task) if not asks(word)]
    sweep = begun_sweep(config)
    if sweep is None:
        return config, overrides
    record = sweep.record
    stored = check_stored(sweep, record.get("overrides", []))
    overrides = list({override_key(word): word for word in [*stored, *overrides]}.values())
    config = config.copy()
    with read_write(config), open_dict(config):
        config.hydra.sweeper = _settings(record, config)
        if (launcher := record.get("launcher", {})).get("choice") == config.hydra.runtime.choices.get("hydra/launcher"):
            typed = {override_key(word) for word in raw_overrides(config.hydra.overrides.hydra)}
            for key, value in safe_settings(launcher.get("settings", {}), config).items():
                if f"hydra.launcher.{key}" not in typed:
                    OmegaConf.update(config.hydra.launcher, key, value)
    return config, overrides


def check_stored(sweep: Sweep, overrides: Sequence[Any]) -> list[str]:
    """Returns overrides that a sweep recorded, where each is about the config of its jobs.

    Raises:
        UserError: with the one that is a flag, about Hydra, or no override at all.
    """
    for override in overrides:
        if not isinstance(override, str) or is_hydras(override) or override_key(override) in OURS:
            raise UserError(f"{sweep.dir / FILE}: {override!r} is no override of a job's config; not taken from a file")
    parse(overrides)
    return list(overrides)


def safe_settings(node: Any, config: DictConfig) -> dict[str, Any]:
    """Returns what a sweep may keep of its launcher's settings, by key: plain values of keys that run nothing.

    Args:
        node: the settings.
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


def facts(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Returns what a sweep records of itself, and must have in common with the one that goes on with it.

    Args:
        config: of the sweep, its `hydra` node included.
        overrides: of the task, swept ones included.
    """
    sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    params = sweeper.pop("params", None) or {}
    space = Space.parse(overrides, params, sweeper.get("when") or {})
    varied = {key: str(text) for key, text in params.items()} | space.as_written()  # those of one value as well
    return {
        "overrides": list(overrides),
        "space": varied,
        "hydra": {"sweeper": sweeper | {"params": params}},
        "config": OmegaConf.to_container(compose(space.fixed), resolve=False),
        "files": dict(_files(varied)),
        "launcher": {
            "choice": config.hydra.runtime.choices.get("hydra/launcher"),
            "settings": safe_settings(config.hydra.launcher, config),
        },
    }


def check(sweep: Sweep, config: DictConfig, overrides: Sequence[str], asked: bool) -> bool:
    """Tells whether a sweep goes on, and is the one that began in its directory.

    Args:
        sweep: in the directory that is to hold the sweep.
        config: of `whole_sweep`.
        overrides: of `whole_sweep`.
        asked: whether the command line says `sweep.resume=`.

    Raises:
        UserError: when it is not, with what differs, or when the directory holds a sweep and is to hold another.
    """
    record = sweep.record
    if not record:
        return False
    if not asked:
        raise UserError(
            f"{sweep.dir} holds a sweep already: go on with it by sweep.resume={sweep.dir},"
            " or choose another hydra.sweep.dir"
        )
    now, free = facts(config, overrides), [f"sweeper.{key}" for key in (*FREE, "params")]
    changed = [
        f"{what}: {_shown(then)} then, {_shown(today)} now"
        for part, ignored in (("space", ()), ("hydra", free), ("files", ()), ("config", PLACE))
        for what, today, then in differences(now[part], record[part])
        if not is_under(what, ignored)
    ]
    if changed:
        raise UserError(
            f"sweep.resume={sweep.dir}: this would be another sweep\n  "
            + "\n  ".join(changed[:8])
            + "\nput it back as it was, or begin a new sweep without sweep.resume="
        )
    return True


def _settings(record: dict[str, Any], config: DictConfig) -> DictConfig:
    """The sweeper's settings as they were recorded, under those that are typed now; its class is the composed one."""
    made = OmegaConf.create({**record["hydra"]["sweeper"], "_target_": config.hydra.sweeper._target_})
    for override in parse(raw_overrides(config.hydra.overrides.hydra)):
        key = override.key_or_group.replace("/", ".").removeprefix("hydra.sweeper.")
        if override.key_or_group.startswith(("hydra.sweeper.", "hydra/sweeper/")):
            OmegaConf.update(made, key, get(config.hydra.sweeper, key), merge=False, force_add=True)
    return made


def _files(space: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """What stands in the file of each choice that a sweep takes from a group, and in those that it builds upon."""
    for swept, text in space.items():
        group = swept.lstrip("+").partition("@")[0]
        for choice in options(group):
            if choice in text or "glob" in text:
                yield from _read(f"{group}/{choice}")


def _read(name: str) -> Iterator[tuple[str, Any]]:
    path = CONFIGS / f"{name}.yaml"
    if not path.is_file():  # one of Hydra's own
        return
    content = read_yaml(path) or {}
    yield f"configs/{name}.yaml", content
    here = name.rpartition("/")[0]
    for entry in content.get("defaults") or []:
        for group, choice in entry.items() if isinstance(entry, dict) else [("", entry)]:
            group = str(group).removeprefix("override ").partition("@")[0]
            below = group.removeprefix("/") if group.startswith("/") else "/".join(filter(None, (here, group)))
            if isinstance(choice, str) and choice != "_self_":
                yield from _read(choice.removeprefix("/") if choice.startswith("/") else f"{below}/{choice}")


def _shown(value: Any) -> str:
    return "nothing" if value is ABSENT else str(value)
