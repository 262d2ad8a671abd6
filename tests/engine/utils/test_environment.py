"""Environment variables are set in one place."""

import ast
import os
from pathlib import Path

import pytest

from lab.engine.utils.environment import set_defaults, set_variables
from lab.engine.utils.paths import ROOT

CHANGES = ("os.environ.update", "os.environ.setdefault", "os.environ.pop", "os.environ.clear", "os.putenv")


def changes(path: Path) -> list[int]:
    """The lines of a file that set or remove an environment variable."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign):
            targets = [node.target]
        if any(ast.unparse(target).startswith("os.environ") for target in targets):
            found.append(node.lineno)  # type: ignore[attr-defined]
        if isinstance(node, ast.Call) and ast.unparse(node.func) in CHANGES:
            found.append(node.lineno)
    return found


def test_one_file_sets_variables() -> None:
    files = [*ROOT.glob("src/**/*.py"), *ROOT.glob("scripts/**/*.py")]
    setting = {str(path.relative_to(ROOT)): lines for path in files if (lines := changes(path))}
    assert set(setting) == {"src/lab/engine/utils/environment.py"}, setting


def test_defaults_leave_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_SET", "before")
    monkeypatch.setenv("LAB_UNSET", "")
    monkeypatch.delenv("LAB_UNSET")
    set_defaults(LAB_SET="after", LAB_UNSET="after")
    assert (os.environ["LAB_SET"], os.environ["LAB_UNSET"]) == ("before", "after")
    set_variables(LAB_SET="after")
    assert os.environ["LAB_SET"] == "after"
