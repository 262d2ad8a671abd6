"""Lets your shell complete `python src/train.py …` by Tab: python -m lab.engine.cli.completion [bash, zsh or fish]

Adds one line to the shell's start file, once, and prints it. The default is the shell that $SHELL names.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.engine.cli.errors import script
from lab.engine.cli.start import start
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest
from lab.engine.utils.paths import ROOT

SHELLS = ("bash", "zsh", "fish")


def install(shell: str, environ: Mapping[str, str]) -> str:
    """Adds the line that loads the completion to a shell's start file, and returns a message for the user.

    Raises:
        UserError: for a shell without a file in `scripts/completion`.
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
    return f"{path} has a new last line:\n  {line}\nNew shells read it; in this one: source {shlex.quote(str(path))}"


def main(arguments: Sequence[str]) -> None:
    """Installs completion for the named shell, or for the one in `$SHELL`."""
    if len(arguments) > 1:
        raise UserError(f"{arguments[1]}: one shell at a time")
    print(install(arguments[0] if arguments else Path(os.environ.get("SHELL", "")).name, os.environ))


def _start_file(shell: str, environ: Mapping[str, str]) -> Path:
    home = Path(environ.get("HOME") or Path.home())
    return {
        "bash": home / ".bashrc",
        "zsh": Path(environ.get("ZDOTDIR") or home) / ".zshrc",
        "fish": Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "config.fish",
    }[shell]


def _line(shell: str) -> str:
    """Returns a line that sources the file of this checkout, if the checkout still exists."""
    file = shlex.quote(str(ROOT / "scripts" / "completion" / f"lab.{shell}"))
    return f"test -f {file}; and source {file}" if shell == "fish" else f"[ ! -f {file} ] || source {file}"


if __name__ == "__main__":
    start()
    script(main)
