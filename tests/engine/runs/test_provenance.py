"""What a run records of its origin, and that its patch makes the same tree again."""

import subprocess
import time
from pathlib import Path

import pytest

from lab.engine.runs.provenance import PACKAGES, collect_metadata
from lab.engine.runs.reproduce import changed_files
from lab.engine.utils import git as git_module
from lab.engine.utils.git import LARGE, git, patch, same_code, save_patch


def ask(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout.decode().strip()


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.relative_to(folder).parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    ask(folder, "init")
    (folder / ".gitignore").write_text("ignored/\n")
    (folder / "src").mkdir()
    (folder / "src" / "code.py").write_text("a = 1\n")
    (folder / "src" / "gone.py").write_text("b = 1\n")
    (folder / "src" / "picture.png").write_bytes(bytes(range(256)))
    (folder / "README.md").write_text("read me\n")
    ask(folder, "add", "-A")
    ask(folder, "commit", "-m", "first")
    return folder


def test_facts_name_code_versions_and_machine() -> None:
    found = collect_metadata()
    assert set(found) == {"argv", "git", "versions", "hostname", "platform", "cpus", "omp_num_threads"}
    assert set(found["versions"]) == {"python", *PACKAGES}
    assert found["cpus"] >= 1


def test_git_tells_commit_branch_and_dirt(repository: Path) -> None:
    commit = ask(repository, "rev-parse", "HEAD")
    assert git(repository) == {"commit": commit, "branch": "main", "dirty": False}
    assert patch(repository) == ""
    assert not save_patch(repository / "none.patch", repository)
    (repository / "src" / "ignored").mkdir()
    (repository / "src" / "ignored" / "x").write_text("x")
    assert git(repository) == {"commit": commit, "branch": "main", "dirty": False}
    (repository / "src" / "new.py").write_text("x")
    assert git(repository) == {"commit": commit, "branch": "main", "dirty": True}
    ask(repository, "checkout", "--detach")
    assert git(repository) == {"commit": commit, "branch": None, "dirty": True}


def test_the_patch_on_the_commit_gives_the_same_tree(repository: Path, tmp_path: Path) -> None:
    (repository / "src" / "code.py").write_bytes("a = 2  # Grüße\n".encode() + b"latin = '\xe9'\r\n")
    (repository / "src" / "gone.py").unlink()
    (repository / "src" / "picture.png").write_bytes(bytes(reversed(range(256))))
    (repository / "src" / "staged.py").write_text("s = 1\n")
    ask(repository, "add", "src/staged.py")
    (repository / "src" / "new").mkdir()
    (repository / "src" / "new" / "a name with spaces, ü and *.py").write_text("n = 1")  # no newline at its end
    (repository / "src" / "new" / "data.bin").write_bytes(b"\0\1\2" * 1000)
    (repository / "src" / "new" / "empty").write_text("")
    (repository / "scripts").mkdir()
    (repository / "scripts" / "script.sh").write_text("#!/bin/sh\n")
    (repository / "scripts" / "script.sh").chmod(0o755)
    ask(repository, "config", "diff.noprefix", "true")
    index = (repository / ".git" / "index").read_bytes()
    status = ask(repository, "status", "--porcelain")

    names = ("src/picture.png", "src/new/data.bin", "src/new/empty")
    data = {name: (repository / name).stat().st_size for name in names}
    assert save_patch(tmp_path / "code.patch", repository)
    assert ask(repository, "status", "--porcelain") == status, "the checkout is left as it was"
    assert (repository / ".git" / "index").read_bytes() == index
    ask(tmp_path, "clone", str(repository), "again")
    ask(tmp_path / "again", "apply", str(tmp_path / "code.patch"))
    source, again = tree(repository), tree(tmp_path / "again")
    named = (tmp_path / "code.patch").read_bytes().decode(errors="replace").splitlines()
    for name, size in data.items():
        assert f"# left out, {size} bytes: {name}" in named
        assert source.pop(name) != again.pop(name, None)
    assert again == source
    assert (tmp_path / "again" / "scripts" / "script.sh").stat().st_mode & 0o100


def test_large_new_files_and_what_exceeds_the_total_are_named_and_left_out(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_module, "TOTAL", LARGE + 100)
    (repository / "src" / "a.py").write_bytes(b"x" * (LARGE + 1))
    for name in ("b.py", "c.py"):
        (repository / "src" / name).write_bytes(b"x" * LARGE)
    (repository / "src" / "new.py").write_text("n = 1\n")
    said = patch(repository)
    left_out = [f"# left out, {LARGE + 1} bytes: src/a.py", f"# left out, {LARGE} bytes: src/c.py"]
    assert said.splitlines()[:2] == left_out
    assert changed_files("", said) == ["src/a.py", "src/b.py", "src/c.py", "src/new.py"]
    assert len(said) < 2 * LARGE
    (tmp_path / "code.patch").write_text(said)
    ask(tmp_path, "clone", str(repository), "again")
    ask(tmp_path / "again", "apply", str(tmp_path / "code.patch"))
    assert (tmp_path / "again" / "src" / "new.py").exists()


def test_only_code_counts_and_no_secret_is_copied(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "KEY=very-private"
    for name in (".env", "src/.env", "src/.private/key.py", "notes.txt", "predictions.csv", "report/table.csv"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text(secret)
    (repository / "README.md").write_text("read me again\n")
    assert git(repository) == {"commit": ask(repository, "rev-parse", "HEAD"), "branch": "main", "dirty": False}
    assert patch(repository) == ""
    monkeypatch.setenv("LAB_FAKE_TOKEN", "fake-7f3a9c41e0d2")
    (repository / "src" / "code.py").write_text("token = 'fake-7f3a9c41e0d2'\n")
    assert "+token = '***'" in patch(repository), "a secret of the environment in the code is masked"


def test_commits_that_differ_in_documents_alone_have_the_same_code(repository: Path) -> None:
    commits = [ask(repository, "rev-parse", "HEAD")]
    for name in ("README.md", "src/code.py"):
        (repository / name).write_text("other")
        ask(repository, "commit", "-a", "-m", name)
        commits.append(ask(repository, "rev-parse", "HEAD"))
    assert same_code(commits[0], commits[1], repository)
    assert not same_code(commits[0], commits[2], repository)
    for unknown in ("0" * 40, None, f"--output={repository}/evil"):
        assert not same_code(commits[0], unknown, repository)
    assert not (repository / "evil").exists()


def test_no_repository_no_git_and_a_git_that_hangs_fail_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git(tmp_path) is None
    assert patch(tmp_path) == ""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert collect_metadata(tmp_path)["git"] is None
    assert patch(tmp_path) == ""
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setattr(git_module, "TIMEOUT", 0.2)
    start = time.monotonic()
    assert git(tmp_path) is None
    assert patch(tmp_path) == ""
    assert time.monotonic() - start < 20


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    ask(tmp_path, "init")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "code.py").write_text("a = 1\n")
    assert git(tmp_path) == {"commit": None, "branch": "main", "dirty": True}
    assert patch(tmp_path) == ""
