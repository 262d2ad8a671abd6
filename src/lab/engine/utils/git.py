"""Reads commit, branch and changes of the checkout's code from git; None or empty where git has no answer."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.engine.utils.escape import printable
from lab.engine.utils.paths import ROOT
from lab.engine.utils.redaction import ASSIGNED, MASK, redact

# What a run is made of. Files elsewhere are documents and outputs, and those that begin with a dot are often private
CODE = ["--", "src", "configs", "scripts", "pyproject.toml", "requirements.lock", ":(exclude)*/.*"]
# Of these, what a patch holds: never keys or data, which may be called anything else
SOURCE = re.compile(rb"\.(pyi?|pyx|ya?ml|toml|lock|sh|bash|zsh|fish|html|c|cc|cpp|cuh?|h|hpp)$", re.IGNORECASE)
PRIVATE = re.compile(rb"credential|secret|password|id_(rsa|dsa|ecdsa|ed25519)|\.env(\.|$)", re.IGNORECASE)  # in a path
LARGE = 1_000_000  # bytes; a larger new file is considered data
TOTAL = 10 * LARGE  # of all new files together
TIMEOUT = 5.0  # seconds for one command


def git(root: Path = ROOT) -> dict[str, Any] | None:
    """Returns commit, branch (None where HEAD is detached) and whether code differs; None outside a repository."""
    output = _git(root, ["status", "--porcelain=v2", "--branch", "--untracked-files=all", *CODE])
    if output is None:
        return None
    lines = output.decode(errors="replace").splitlines()
    head = {line.split()[1]: line.split(maxsplit=2)[2] for line in lines if line.startswith("# ")}
    commit, branch = head.get("branch.oid"), head.get("branch.head")
    return {
        "commit": None if commit == "(initial)" else commit,
        "branch": None if branch == "(detached)" else branch,
        "dirty": any(not line.startswith("# ") for line in lines),
    }


def same_code(commit: str | None, other: str | None, root: Path = ROOT) -> bool:
    """Tells whether two commits hold the same code; False where git does not know one of them."""
    return _git(root, ["diff", "--quiet", "--end-of-options", str(commit), str(other), *CODE]) is not None


def patch(root: Path = ROOT) -> str:
    """Returns how the code differs from its commit, for `git apply`: changed source files, and new ones.

    New files are those that git does not ignore, up to `LARGE` bytes each and `TOTAL` together; comments at the top,
    which `git apply` ignores, name the others, and what is no source file. Secrets are masked: of the environment,
    by their form, what new lines give to a name such as `password`. Empty where nothing differs or there is no
    commit. Bytes that are not UTF-8 become surrogates: write it with `save_patch`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        listed = _git(root, ["ls-files", "--others", "--exclude-standard", "-z", *CODE])
        saved: list[bytes] = []
        left_out = ""
        room = TOTAL
        changed = _git(root, ["diff", "--name-only", "--no-renames", "-z", "HEAD", *CODE]) or b""
        others = [name for name in changed.split(b"\0") if name and not _is_source(name)]
        for name in [*others, *filter(None, (listed or b"").split(b"\0"))]:
            try:
                size = os.lstat(os.path.join(os.fsencode(root), name)).st_size
            except OSError:  # deleted, a new file just now
                if _is_source(name):
                    continue
                size = 0
            if _is_source(name) and size <= min(LARGE, room):
                room -= size
                saved.append(name)
            else:
                left_out += f"# left out, {size} bytes: {printable(os.fsdecode(name), keep='')}\n"
        environment: dict[str, str] = {}
        index = (_git(root, ["rev-parse", "--absolute-git-dir"]) or b"").decode().strip() + "/index"
        if saved and os.path.isfile(index):  # add new files to a copy of the index
            shutil.copy(index, f"{scratch}/index")
            Path(scratch, "names").write_bytes(b"\0".join(saved))
            environment = {"GIT_INDEX_FILE": f"{scratch}/index"}
            names = [f"--pathspec-from-file={scratch}/names", "--pathspec-file-nul"]
            _git(root, ["add", "--intent-to-add", *names], environment | {"GIT_LITERAL_PATHSPECS": "1"})
        plain = ["--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/", "--no-renames"]
        without = [f":(exclude,literal,top){os.fsdecode(name)}" for name in others]
        changes = _git(root, ["diff", "--binary", "--full-index", *plain, "HEAD", *CODE, *without], environment) or b""
    text: str = redact(left_out + changes.decode(errors="surrogateescape"))
    return ASSIGNED.sub(rf"\1\2{MASK}\2", text)


def _is_source(name: bytes) -> bool:
    """Tells whether a file of this name is source code."""
    return SOURCE.search(name) is not None and not PRIVATE.search(name)


def save_patch(path: Path, root: Path = ROOT) -> bool:
    """Writes `patch` to a file unless it is empty; returns whether it was written."""
    content = patch(root)
    if content:
        path.write_bytes(content.encode(errors="surrogateescape"))
    return bool(content)


def _git(root: Path, arguments: Sequence[str], environment: dict[str, str] | None = None) -> bytes | None:
    """Returns the output of a git command; None where git is missing, fails, or takes too long."""
    command = ["git", "-C", str(root), "-c", "core.fsmonitor=false", *arguments]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=TIMEOUT,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"} | (environment or {}),
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
