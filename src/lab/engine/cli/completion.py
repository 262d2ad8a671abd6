"""Lets your shell complete `python src/train.py …` by Tab: python -m lab.engine.cli.completion [bash, zsh or fish]

Adds one line to the shell's start file, once, and prints it. Without a name it is the shell that $SHELL says.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.engine.cli.errors import script
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest
from lab.engine.utils.paths import ROOT

SHELLS = ("bash", "zsh", "fish")


def install(shell: str, environ: Mapping[str, str]) -> str:
    """Adds the line that completes `python src/train.py …` to a shell's start file, and says what it did.

    Raises:
        UserError: for a shell that there is no file for under `scripts/completion`.
    """
    if shell not in SHELLS:
        raise UserError(f"{shell or 'no shell'}: expected one of {', '.join(SHELLS)}{nearest(shell, SHELLS)}")
    path, line = _start_file(shell, environ), _line(shell)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if line in text.splitlines():
        return f"{path} has the line already"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if text and not text.endswith("\n") else "") + f"{line}\n")
    return f"{path} has a new last line:\n  {line}\nIt serves new shells; in this one: source {shlex.quote(str(path))}"


def main(words: Sequence[str]) -> None:
    """Installs completion for the shell that is named, or that `$SHELL` says."""
    if len(words) > 1:
        raise UserError(f"{words[1]}: one shell at a time")
    print(install(words[0] if words else Path(os.environ.get("SHELL", "")).name, os.environ))


def _start_file(shell: str, environ: Mapping[str, str]) -> Path:
    home = Path(environ.get("HOME") or Path.home())
    return {
        "bash": home / ".bashrc",
        "zsh": Path(environ.get("ZDOTDIR") or home) / ".zshrc",
        "fish": Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "config.fish",
    }[shell]


def _line(shell: str) -> str:
    """Returns what reads the file of this checkout, and nothing once the checkout is gone."""
    file = shlex.quote(str(ROOT / "scripts" / "completion" / f"lab.{shell}"))
    return f"test -f {file}; and source {file}" if shell == "fish" else f"[ ! -f {file} ] || source {file}"


if __name__ == "__main__":
    script(main, __doc__)
