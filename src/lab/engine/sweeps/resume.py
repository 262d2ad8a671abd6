"""Going on with a sweep: `python src/train.py sweep.resume=latest`, alone or with the command that began it.

What a sweep varies, and everything that its jobs share, stays as it was; where it runs, and for how long, may change.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from lab.engine.config.compose import options
from lab.engine.config.identity import ABSENT, differences
from lab.engine.config.overrides import log_dir, override_key, override_value
from lab.engine.sweeps.space import Space
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import CONFIGS

FREE = ["n_trials", "timeout", "max_failure_rate", "n_jobs", "max_batch_size"]  # of the sweeper
ELSEWHERE = ["sweep.resume", "paths"]  # of a job's config


def asks(word: str) -> bool:
    """Whether a word of the command line is `sweep.resume=…`."""
    return word.lstrip("+").startswith("sweep.resume=")


def continue_sweep(words: list[str]) -> list[str]:
    """Leads Hydra into the directory of the sweep that `sweep.resume=` names, with the words that it began with.

    Raises:
        UserError: when there is no such sweep.
    """
    asked = [override_value(word) for word in words if asks(word)]
    if not asked or asked[-1] in ("", "null"):
        return words
    sweep = Sweep.open(asked[-1], log_dir(words), argument="sweep.resume")
    rest = [word for word in words if not asks(word)]
    elsewhere = [override_value(word) for word in rest if word.startswith("hydra.sweep.dir=")]
    if elsewhere and Path(elsewhere[-1]).resolve() != sweep.dir:
        raise UserError(f"sweep.resume={asked[-1]} goes on in the sweep's directory: leave out hydra.sweep.dir")
    if not any(_of_job(word) for word in rest):  # the command is not told again, but for what is new
        again = set(map(override_key, rest))
        if "hydra/launcher" in again:
            again |= {name for name in map(override_key, sweep.record["argv"]) if name.startswith("hydra.launcher.")}
        told = [word for word in sweep.record["argv"] if not asks(word) and override_key(word) not in again]
        rest = [*told, *rest]
    here = f"hydra.sweep.dir='{sweep.dir}'"
    rest = [word for word in rest if word not in ("-m", "--multirun", here) and override_key(word) != "hydra.sweep.dir"]
    return ["--multirun", *rest, f"sweep.resume='{sweep.dir}'", here]


def _of_job(word: str) -> bool:
    """Whether a word is about the jobs: not a flag, nor for Hydra, nor about where things are."""
    return not word.startswith("-") and not override_key(word).startswith(("hydra.", "hydra/", "paths."))


def facts(config: DictConfig, words: list[str]) -> dict[str, Any]:
    """What a sweep must have in common with the one that goes on with it.

    Args:
        config: as Hydra composed it for the sweep, its `hydra` node included.
        words: the task's overrides.
    """
    whole: Any = OmegaConf.to_container(config, resolve=False)
    sweeper = whole.pop("hydra")["sweeper"]
    params = sweeper.pop("params", None) or {}
    space = {key: str(text) for key, text in params.items()}  # those of one value as well
    space |= Space.parse(words, params, sweeper.get("when") or {}).as_written()
    return {
        "words": words,
        "space": space,
        "hydra": {"sweeper": {key: value for key, value in sweeper.items() if key not in FREE}},
        "config": whole,
        "files": dict(_files(space)),
    }


def check(sweep: Sweep, config: DictConfig, words: list[str]) -> bool:
    """Whether a sweep goes on, and is the one that began in its directory.

    Raises:
        UserError: when it is not, with what differs, or when the directory holds a sweep and is to hold another.
    """
    record = sweep.record
    asked = any(asks(word) for word in words)
    if not record:
        return False
    if not asked:
        raise UserError(
            f"{sweep.dir} holds a sweep already: go on with it by sweep.resume={sweep.dir},"
            " or choose another hydra.sweep.dir"
        )
    now = facts(config, [word for word in words if not asks(word)])
    changed = [
        f"{what}: {_told(then)} then, {_told(today)} now"
        for part in ("space", "hydra", "files", "config")
        for what, today, then in differences(now[part], record[part])
        if not (part == "config" and f"{what}.".startswith(tuple(f"{name}." for name in ELSEWHERE)))
    ]
    if changed:
        raise UserError(
            f"sweep.resume={sweep.dir}: this would be another sweep\n  "
            + "\n  ".join(changed[:8])
            + "\nput it back as it was, or begin a new sweep without sweep.resume="
        )
    return True


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
    content = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    yield f"configs/{name}.yaml", content
    here = name.rpartition("/")[0]
    for entry in content.get("defaults") or []:
        for group, choice in entry.items() if isinstance(entry, dict) else [("", entry)]:
            group = str(group).removeprefix("override ").partition("@")[0]
            below = group.removeprefix("/") if group.startswith("/") else "/".join(filter(None, (here, group)))
            if isinstance(choice, str) and choice != "_self_":
                yield from _read(choice.removeprefix("/") if choice.startswith("/") else f"{below}/{choice}")


def _told(override_value: Any) -> str:
    return "nothing" if override_value is ABSENT else str(override_value)
