"""A finished run as a command line that makes the same config again, and what would keep it from being the same run.

The config that a run saved is the truth, and not what today's files make of its overrides. The command line starts from
the overrides that the run was given, so that choices and names stay those of the run; wherever today's files then give
another value than the saved one, the saved one is put on top. What comes out is composed once more and held against the
saved config. A folder with the saved file alone (`--config-dir`) would lack the choices that `.hydra/hydra.yaml`
records, and the processes that Lightning starts for other ranks are not told of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lab.engine.config.compose import compose
from lab.engine.config.identity import ABSENT, differences
from lab.engine.config.overrides import to_override
from lab.engine.runs.provenance import facts
from lab.engine.utils.errors import UserError
from lab.engine.utils.git import patch


def saved(directory: Path) -> dict[str, Any]:
    """The config that a run was, interpolations unresolved."""
    config: Any = OmegaConf.to_container(OmegaConf.load(directory / ".hydra" / "config.yaml"), resolve=False)
    return config


def command(directory: Path) -> tuple[list[str], list[str]]:
    """Overrides that make the saved config out of today's files.

    Returns:
        The overrides, and the keys at which the files have changed since.

    Raises:
        UserError: when they cannot make it.
    """
    given: Any = OmegaConf.to_container(OmegaConf.load(directory / ".hydra" / "overrides.yaml"))
    words, then = list(given), saved(directory)
    changed = list(_changes(words, then))
    words += [f"~{key}" if value is ABSENT else f"++{key}={to_override(value)}" for key, value in changed]
    if left := [key for key, _ in _changes(words, then)]:
        raise UserError(f"today's configs cannot make this run's config: {', '.join(left[:5])} differ")
    return words, [key for key, _ in changed]


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


def _changes(words: list[str], then: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Where the config that `words` make today must be changed, and to what.

    A setting that is younger than the run keeps its default where it stands at the root, since the code reads it, or is
    null, which is as good as none.
    """
    config: Any = OmegaConf.to_container(compose(words), resolve=False)
    for key, now, value in differences(config, then):
        if value is not ABSENT or ("." in key and now is not None):
            yield key, value


def _files(patch: str) -> dict[str, str]:
    """What a patch does to each file."""
    parts = patch.split("diff --git ")[1:]
    return {part.splitlines()[0].rpartition(" b/")[2]: part for part in parts}
