"""Tab completes `python src/train.py …` in real shells, and starts no other script."""

import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.engine.cli.completion import SHELLS, install
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import ROOT
from tests.conftest import run_script

START = {
    "bash": ["bash", "--noprofile", "--rcfile", "HOME/.bashrc", "-i"],
    "zsh": ["zsh", "-d", "-i"],
    "fish": ["fish", "-i"],
}


def environment(home: Path) -> dict[str, str]:
    """That of a newcomer, with the Python of the tests as `python`."""
    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return kept | {"HOME": str(home), "TERM": "dumb", "PATH": path}


def complete(shell: str, typed: str, home: Path, seconds: float = 60) -> str:
    """What an interactive shell makes of a line and a Tab: an `echo` that is put before it tells."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = [word.replace("HOME", str(home)) for word in START[shell]]
    terminal = subprocess.Popen(
        [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(home), cwd=ROOT, bufsize=0,
    )  # fmt: skip
    assert terminal.stdin is not None
    assert terminal.stdout is not None
    shown, over = "", time.monotonic() + seconds
    try:
        terminal.stdin.write(b"echo rea''dy\r")  # the quotes part what is typed from what it prints
        for pattern, answer in (
            (r"ready\r?\n", f"{typed}\t\x01echo the li''ne: \x05 end\r"),
            (r"the line: (.*?) +end\r?\n", ""),
        ):
            while (found := re.search(pattern, shown)) is None:
                assert time.monotonic() < over, f"{pattern} does not come: {shown!r}"
                if select.select([terminal.stdout], [], [], 0.1)[0]:
                    shown += terminal.stdout.read(65536).decode(errors="replace")
            terminal.stdin.write(answer.encode())
        assert found is not None
        return found.group(1)
    finally:
        terminal.kill()  # the shell is told that its terminal is gone
        terminal.communicate()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where completion has been installed for every shell."""
    for shell in SHELLS:
        install(shell, {"HOME": str(tmp_path)})
    return tmp_path


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("src/train.py model=le", "model=lenet"),
        ("./src/train.py --multirun model=mlp model.drop", "model.dropout="),
        (f"{ROOT}/src/train.py hydra/sweeper/sampler=t", "hydra/sweeper/sampler=tpe"),
    ],
)
def test_tab_completes(shell: str, typed: str, completed: str, home: Path) -> None:
    before = typed.rpartition(" ")[0]
    assert complete(shell, f"python {typed}", home) == f"python {before} {completed}"


@pytest.mark.parametrize("shell", SHELLS)
def test_no_other_script_is_started(shell: str, home: Path, canary: Path) -> None:
    for name in ("other.py", "src/train.py"):  # of somebody else's, whatever its name
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(f"# @hydra.main\nopen({str(canary)!r}, 'w')\n")
        (home / "a_table.csv").touch()
        assert complete(shell, f"python {home}/{name} {home}/a_ta", home) == f"python {home}/{name} {home}/a_table.csv"


@pytest.mark.parametrize("shell", SHELLS)
def test_one_line_is_added_once(shell: str, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    said = install(shell, environ)
    [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
    [line] = path.read_text().splitlines()
    assert str(path) in said
    assert line in said
    install(shell, environ)
    assert path.read_text() == f"{line}\n"
    path.write_text("alias l=ls")  # a last line without an end
    install(shell, environ)
    assert path.read_text() == f"alias l=ls\n{line}\n"


def test_start_files_are_where_the_shells_look(tmp_path: Path) -> None:
    environ = {"HOME": "/nowhere", "ZDOTDIR": str(tmp_path / "z"), "XDG_CONFIG_HOME": str(tmp_path / "x")}
    install("zsh", environ)
    install("fish", environ)
    assert (tmp_path / "z" / ".zshrc").is_file()
    assert (tmp_path / "x" / "fish" / "config.fish").is_file()


def test_another_shell_is_refused() -> None:
    for shell in ("tcsh", ""):
        with pytest.raises(UserError, match="bash, zsh, fish"):
            install(shell, {})


def test_the_command_asks_which_shell_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/usr/bin/bash")
    done = run_script("src/lab/engine/cli/completion.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / ".bashrc").read_text().strip() in done.stdout


def test_a_query_loads_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "python train.py optimizer.l")
    done = run_script("tests/untorched.py", "-sc", "query=bash")
    assert (done.stdout.split(), done.stderr) == (["optimizer.lr="], "")
