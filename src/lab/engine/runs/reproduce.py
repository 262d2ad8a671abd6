"""A finished run once more, from the config that it saved, and what would keep it from being the same run."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.changes import chosen, merge_changes
from lab.engine.config.compose import compose, leaves
from lab.engine.config.drawn import is_drawn
from lab.engine.runs.provenance import facts
from lab.engine.runs.recorder import save_config
from lab.engine.runs.run import Run
from lab.engine.utils.git import patch


def copy_run(run: Run, directory: Path, changes: Sequence[str] = ()) -> None:
    """Makes the directory of a run with the config that another one saved, for `attach=DIR`.

    Args:
        run: whose config it is.
        directory: is made.
        changes: overrides that are merged into the config.

    Raises:
        UserError: for a change that does not fit the config.
    """
    config = run.saved
    made = merge_changes(_drawn_anew(config, run), changes, run.choices)
    (directory / ".hydra").mkdir(parents=True)
    for name in ("hydra.yaml", "overrides.yaml"):
        shutil.copy(run.dir / ".hydra" / name, directory / ".hydra" / name)
    OmegaConf.update(made, "changes", list(changes), force_add=True)
    save_config(directory, made)


def _drawn_anew(config: DictConfig, run: Run) -> DictConfig:
    """A saved config in which what is drawn once per run is to be drawn once more."""
    for key, value in leaves(compose(list(chosen(run.choices).values()))):
        if is_drawn(value) and key != "paths.run_dir" and OmegaConf.select(config, key) is not None:
            OmegaConf.update(config, key, value)
    if config.get("callbacks"):
        config.callbacks.pop("pruning", None)  # of a sweep, of which the copy is no part
    return config


def obstacles(directory: Path, record: dict[str, Any]) -> list[str]:
    """In what the code and the packages of today differ from those that the run recorded, a line each.

    Args:
        directory: of the run; holds `code.patch` where the checkout differed from its commit.
        record: its `run.json`.
    """
    now, then = facts(), record.get("git") or {}
    here = now["git"] or {}
    found = []
    if then.get("commit") != here.get("commit"):
        found.append(f"commit then {then.get('commit')}, now {here.get('commit')}")
    recorded = directory / "code.patch"
    before = recorded.read_bytes().decode(errors="surrogateescape") if recorded.is_file() else ""
    if then.get("dirty") and not before:
        found.append("files differed from the commit then, and no code.patch says how")
    elif before != (after := patch()):
        found.append(f"files changed since: {', '.join(changed_files(before, after)) or 'large ones'}")
    if changed := [word for begun in record.get("resumed", []) for word in begun.get("changed", [])]:
        found.append(f"it was resumed with {' '.join(changed)}, which does not come to the same as to begin with that")
    for name, version in record.get("versions", {}).items():
        if now["versions"].get(name, version) != version:
            found.append(f"{name} then {version}, now {now['versions'][name]}")
    return found


def changed_files(before: str, after: str) -> list[str]:
    """The files that two patches against one commit leave unlike."""
    return sorted({name for name, _ in {*_files(before).items()} ^ {*_files(after).items()}})


def _files(patch: str) -> dict[str, str]:
    """What a patch does to each file."""
    parts = patch.split("diff --git ")[1:]
    return {part.splitlines()[0].rpartition(" b/")[2]: part for part in parts}
