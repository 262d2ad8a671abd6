"""The file of schemas: it answers without an import, and never says what is no longer so."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf

from lab.engine.config import composition_errors, schema_cache, validate
from lab.engine.config.composition_errors import UnknownKey
from lab.engine.config.instantiate import ALLOWED
from lab.engine.config.schema_cache import cached_schema, renew
from lab.engine.config.validate import check_nodes, nodes
from lab.engine.utils.errors import UserError

CHOICES = 'from typing import Literal\n\nShape = Literal["round", "square"]\n'
MODEL = "from mine.choices import Shape\n\n\nclass Net:\n    def __init__(self, shape: Shape = 'round') -> None: ...\n"
CLOCK = iter(range(1, 1000))


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout with a package of its own under src/, and an empty cache."""
    package = tmp_path / "src" / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    write(package / "choices.py", CHOICES)
    write(package / "net.py", MODEL)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    monkeypatch.setattr(schema_cache, "ROOT", tmp_path)
    monkeypatch.setattr(schema_cache, "PATH", tmp_path / ".schema" / "classes.json")
    monkeypatch.setattr(validate, "locate", located)
    assert "mine" not in ALLOWED
    forget()
    yield package
    forget()


def located(target: str, allowed: object = None) -> object:
    module, _, name = target.rpartition(".")
    loaded: ModuleType = __import__(module, fromlist=[name])
    return getattr(loaded, name)


def forget() -> None:
    """What a new process would not know."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    for cached in (schema_cache._entries, schema_cache._newest_source, schema_cache._stamp):
        cached.cache_clear()


def write(path: Path, text: str) -> None:
    path.write_text(text)
    later = path.stat().st_mtime_ns + next(CLOCK) * 10**9
    os.utime(path, ns=(later, later))


def check(shape: str) -> bool:
    """Whether a new process takes the shape; imports Net where it must."""
    try:
        check_nodes(nodes(OmegaConf.create({"_target_": "mine.net.Net", "shape": shape}), "model"))
    except UserError as error:
        return "model.shape" not in str(error)
    return True


def test_what_is_known_is_judged_without_an_import() -> None:
    assert check("square")
    assert "mine.net" in sys.modules
    forget()
    assert check("square")
    assert not check("circle")
    assert "mine.net" not in sys.modules


def test_an_edited_class_is_read_again(checkout: Path) -> None:
    assert check("square")
    write(checkout / "net.py", MODEL.replace("shape: Shape", "shape: int | Shape").replace("'round'", "3"))
    forget()
    assert cached_schema("mine.net.Net") is None
    assert check("square")
    forget()
    assert cached_schema("mine.net.Net")["properties"]["shape"]["default"] == 3  # type: ignore[index]


def test_an_argument_that_was_just_added_is_known(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition_errors, "locate", located)
    assert check("square")
    write(checkout / "net.py", MODEL.replace("shape: Shape", "rate: float = 0.1, shape: Shape"))
    forget()
    known = {"model._target_": "mine.net.Net", "model.shape": "square"}
    assert "+model.rate=" in str(UnknownKey("model.rate", known))
    assert "did you mean model.rate?" in str(UnknownKey("model.rates", known))


def test_choices_of_another_file_are_never_refused_wrongly(checkout: Path) -> None:
    assert not check("circle")
    write(checkout / "choices.py", CHOICES.replace('"round"', '"circle", "round"'))
    forget()
    assert check("circle")
    forget()
    assert check("circle")
    assert "mine.net" not in sys.modules


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_cache_is_an_empty_one(text: str) -> None:
    schema_cache.PATH.parent.mkdir()
    schema_cache.PATH.write_text(text)
    assert check("square")
    assert not check("circle")


def test_a_checkout_that_cannot_be_written_to_is_judged_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(schema_cache, "PATH", tmp_path / "file" / "classes.json")
    assert check("square")
    assert not check("circle")


def test_others_entries_stay() -> None:
    check("square")
    forget()
    renew({"pathlib.Path": Path})
    forget()
    assert cached_schema("mine.net.Net") is not None
