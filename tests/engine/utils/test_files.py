"""Files and links that several processes write at once."""

import fcntl
import hashlib
import os
from pathlib import Path

import pytest

from lab.engine.utils.errors import UserError
from lab.engine.utils.files import atomic_write, checksum, read_yaml
from lab.engine.utils.locks import directory_lock


def test_writers_with_equal_process_numbers_do_not_meet(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as first, atomic_write(tmp_path / "file") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "file").read_text() == "first", "the one that ended last"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_is_replaced_while_another_process_replaces_it(tmp_path: Path) -> None:
    link = tmp_path / "latest"
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    link.symlink_to("a")
    with atomic_write(link) as first, atomic_write(link) as second:
        first.symlink_to("b")
        second.symlink_to("c")
    assert os.readlink(link) == "b"


def test_who_waited_for_a_lock_and_who_comes_later_do_not_both_hold_it(tmp_path: Path) -> None:
    with directory_lock(tmp_path, "is in use"):
        waiting = os.open(tmp_path / ".lock", os.O_RDWR)
    try:
        fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(UserError, match="is in use"), directory_lock(tmp_path, "is in use"):
            pass
    finally:
        os.close(waiting)
    with directory_lock(tmp_path, "is in use"):
        pass


def test_aliases_that_expand_without_end_are_refused(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    for content in ("\n".join(levels), "a: &a [*a]"):
        (tmp_path / "bomb.yaml").write_text(content)
        with pytest.raises(UserError, match=r"bomb\.yaml.*aliases"):
            read_yaml(tmp_path / "bomb.yaml")
    (tmp_path / "fair.yaml").write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    assert read_yaml(tmp_path / "fair.yaml") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


def test_a_checksum_is_of_the_content_and_of_samples_of_a_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(content: bytes) -> Path:
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        path.write_bytes(content)
        return path

    content = bytearray(range(256)) * 8
    assert checksum(written(content)) == hashlib.sha256(content).hexdigest()
    for name, value in {"WHOLE": 1000, "SAMPLES": 5, "SAMPLE": 16}.items():
        monkeypatch.setattr(f"lab.engine.utils.files.{name}", value)
    sampled = checksum(written(content))
    for place, differs in [(0, True), (len(content) // 2, True), (-1, True), (100, False)]:
        changed = content.copy()
        changed[place] ^= 1
        assert (checksum(written(changed)) != sampled) == differs, place
    assert checksum(written(content + b"0")) != sampled
