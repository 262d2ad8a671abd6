"""Reproduces a finished run from its saved config, and lists what has changed since."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.changes import chosen, merge_changes
from lab.engine.config.compose import compose, leaves
from lab.engine.config.drawn import is_drawn
from lab.engine.runs.provenance import collect_metadata
from lab.engine.runs.recorder import save_config
from lab.engine.runs.run import Run
from lab.engine.utils.files import checksum
from lab.engine.utils.git import patch, same_code


def copy_run(run: Run, directory: Path, changes: Sequence[str] = ()) -> None:
    """Creates a run directory with the saved config of another run, for `attach=DIR`.

    Args:
        run: that is copied.
        directory: of the new run; is created.
        changes: raw overrides to merge into the config.

    Raises:
        UserError: for a change that does not fit the config.
    """
    config = run.saved
    copied = merge_changes(_redraw(config, run), changes, run.choices)
    (directory / ".hydra").mkdir(parents=True)
    for name in ("hydra.yaml", "overrides.yaml"):
        shutil.copy(run.dir / ".hydra" / name, directory / ".hydra" / name)
    OmegaConf.update(copied, "changes", list(changes), force_add=True)
    save_config(directory, copied)


def _redraw(config: DictConfig, run: Run) -> DictConfig:
    """Puts back the interpolations of values that are drawn once per run, so that the new run draws its own."""
    for key, value in leaves(compose(list(chosen(run.choices).values()))):
        if is_drawn(value) and key != "paths.run_dir" and OmegaConf.select(config, key) is not None:
            OmegaConf.update(config, key, value)
    if config.get("callbacks"):
        config.callbacks.pop("pruning", None)  # the copy is part of no sweep
    return config


def changes_since(directory: Path, metadata: dict[str, Any]) -> list[str]:
    """Lists how today's code and packages differ from those of the run, one line for each; other files do not count.

    Args:
        directory: of the run; holds `code.patch` where the checkout differed from its commit.
        metadata: its `run.json`.
    """
    now, then = collect_metadata(), metadata.get("git") or {}
    here = now["git"] or {}
    lines = []
    commits = then.get("commit"), here.get("commit")
    if len({*commits}) > 1 and not same_code(*commits):
        lines.append("commit then {}, now {}".format(*commits))
    saved = directory / "code.patch"
    before = saved.read_bytes().decode(errors="surrogateescape") if saved.is_file() else ""
    if then.get("dirty") and not before:
        lines.append("files differed from the commit then, and there is no code.patch")
    elif before != (after := patch()):
        lines.append(f"files changed since: {', '.join(changed_files(before, after))}")
    if changed := [override for start in metadata.get("resumed", []) for override in start.get("changed", [])]:
        lines.append(f"it was resumed with {' '.join(changed)}, which is not the same as starting with that")
    if begun_with := metadata.get("weights"):
        file = Path(begun_with["file"])
        if not file.is_file() or checksum(file) != begun_with["checksum"]:
            lines.append(f"the weights that it began with, {file}, have changed")
    for name, version in metadata.get("versions", {}).items():
        if now["versions"].get(name, version) != version:
            lines.append(f"{name} then {version}, now {now['versions'][name]}")
    return lines


def changed_files(before: str, after: str) -> list[str]:
    """Returns the files that differ after two patches of the same commit."""
    return sorted({name for name, _ in {*_files(before).items()} ^ {*_files(after).items()}})


def _files(patch: str) -> dict[str, str]:
    """Returns the part of a patch for each file, by its name; for a file that was left out, its size."""
    left_out, *parts = re.split(r"^diff --git ", patch, flags=re.MULTILINE)
    sizes = {name: size for size, name in re.findall(r"^# left out, (\d+) bytes: (.*)$", left_out, re.MULTILINE)}
    return sizes | {part.splitlines()[0].rpartition(" b/")[2]: part for part in parts}
