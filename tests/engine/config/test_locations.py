"""Paths are absolute in a run: it finds its data from wherever it is resumed."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lab.engine.config.compose import parse
from lab.engine.config.locations import absolute_override, make_absolute
from lab.engine.config.overrides import command_word
from lab.engine.runs.run import Run
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.paths import ROOT
from lab.engine.utils.redaction import COMMAND_LINE
from tests.conftest import accepted, animals, refusal, run_script

CSV = ["data=csv", "data.target=kind", "model=mlp"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which holds two files of a name each."""
    folder = tmp_path / "it's a=b größer"
    folder.mkdir()
    for name in ("x.csv", "y z.csv", "median"):
        (folder / name).write_text(animals(30))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def home(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the home directory."""
    monkeypatch.setenv("HOME", str(here))
    return here


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("data.path=x.csv", ["x.csv"]),
        ("data.path=./x.csv", ["x.csv"]),
        ("++data.path='y z.csv'", ["y z.csv"]),
        ("data.path=~/x.csv", ["x.csv"]),
        ("data.path=x.csv,median", ["x.csv", "median"]),
        ("paths.log_dir=new/logs", ["new/logs"]),
    ],
)
def test_a_path_that_is_typed_is_absolute(typed: str, found: list[str], home: Path) -> None:
    (override,) = parse([absolute_override(typed)])
    value: Any = override.value()
    values = [one.text for one in value.list] if override.is_sweep_override() else [value]
    assert values == [str(home / name) for name in found]
    assert override.key_or_group == typed.lstrip("+").partition("=")[0]


@pytest.mark.parametrize(
    "typed",
    [
        "data.path=/x.csv", "data.path=nowhere.csv", "data.path=null", "data.missing=median", "data.path=${root:}/x",
        "data.path=https://x.csv", "data.path=choice(x.csv)", "paths.log_dir=null", "paths.log_dir=${paths.root_dir}/x",
        "model=x.csv", "x.csv", "resume=x.csv", "--config-dir", "~data.path", "callbacks.checkpoint.dirpath=x.csv",
    ],
)  # fmt: skip
def test_anything_else_stays(typed: str, here: Path) -> None:
    assert absolute_override(typed) == typed


def test_paths_of_files_are_made_absolute_too(here: Path, tmp_path: Path) -> None:
    cfg = OmegaConf.create(
        {
            "paths": {"log_dir": "logs", "data_dir": "/data", "run_dir": "${paths.log_dir}/1"},
            "data": {"path": "x.csv", "missing": "median", "inner": {"files": ["x.csv", "nowhere"]}},
            "callbacks": {"checkpoint": {"dirpath": "x.csv"}},
        }
    )
    os.chdir(tmp_path)
    make_absolute(cfg, str(here))
    assert OmegaConf.to_container(cfg, resolve=False) == {
        "paths": {"log_dir": f"{here}/logs", "data_dir": "/data", "run_dir": "${paths.log_dir}/1"},
        "data": {"path": f"{here}/x.csv", "missing": "median", "inner": {"files": [f"{here}/x.csv", "nowhere"]}},
        "callbacks": {"checkpoint": {"dirpath": "x.csv"}},
    }


@pytest.mark.parametrize(
    "name",
    ["plain.csv", "y z.csv", "it's.csv", 'say "hi".csv', "a=b,c (1).csv", "größe 图.csv", "a\\b.csv", "1e3", "null"],
)
def test_the_advice_for_a_name_works(name: str, here: Path) -> None:
    (here / name).write_text(animals(30))
    (word,) = shlex.split(command_word("data.path", str(here / name)))
    (override,) = parse([word])
    assert override.value() == str(here / name)
    accepted(*CSV, word)
    (word,) = shlex.split(command_word("data.target", name))
    assert parse([word])[0].value() == name


@pytest.mark.parametrize("typed", ["data.target=petal width (cm)", "data.target=petal,width", "data.target=a=b"])
def test_a_refusal_says_how_to_write_a_text(typed: str, here: Path) -> None:
    column = typed.partition("=")[2]
    (here / "x.csv").write_text(animals(30).replace("kind", f'"{column}"'))
    words = ["data=csv", "model=mlp", "data.path=x.csv"]
    advice = refusal(*words, typed).rpartition("write ")[2]
    accepted(*words, *shlex.split(advice))


def test_a_number_is_quoted_as_it_was_typed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "x.csv").write_text(animals(30).replace("kind", "1e3"))
    words = ["data=csv", "model=mlp", "data.path=x.csv", "data.target=1e3"]
    monkeypatch.setenv(COMMAND_LINE, json.dumps(words))
    advice = refusal(*words).rpartition("write ")[2]
    assert shlex.split(advice) == ['data.target="1e3"']
    accepted(*words[:-1], *shlex.split(advice))


def test_a_path_below_the_home_directory_is_named_in_full(home: Path) -> None:
    accepted(*CSV, "data.path=~/x.csv")
    accepted(*CSV, "data.path='~/x.csv'")
    assert str(home / "nowhome.csv") in refusal(*CSV, "data.path=~/nowhome.csv")
    advice = refusal("hydra.run.dir=~/run").rpartition("write ")[2]
    assert shlex.split(advice) == [f'hydra.run.dir="{home}/run"']


@pytest.mark.parametrize("name", ["a${b}", "a\nb"])
def test_a_directory_that_no_config_can_hold_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    assert repr(str(tmp_path / name))[1:-1] in refusal("paths.log_dir=logs")


@pytest.mark.slow
def test_runs_and_sweeps_go_on_from_elsewhere(here: Path, tmp_path: Path, data_dir: Path) -> None:
    """Hydra leaves the working directory, and what is printed works in the checkout."""
    short = [*CSV, "data.path=x.csv", "trainer.max_epochs=1", "trainer=cpu", "logger=none", "paths.log_dir=logs"]

    def answer(cwd: Path, *words: str) -> str:
        code = f"import os, sys, runpy; os.chdir({str(cwd)!r}); sys.argv = {['train.py', *words]!r}; "
        probe = tmp_path / "probe.py"
        probe.write_text(f"{code}runpy.run_path({str(ROOT / 'src' / 'train.py')!r}, run_name='__main__')\n")
        done = run_script(str(probe))
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = answer(here, *short, "hydra.job.chdir=true")
    for line in said.splitlines():
        if "scripts/evaluate.py" in line:
            done = run_script(*shlex.split(line)[1:])
            assert done.returncode == 0, done.stderr
    run = Run.open("latest", here / "logs")
    assert run.saved.data.path == str(here / "x.csv")
    answer(tmp_path, f"resume={run.dir}", "trainer.max_epochs=2")
    assert run.metrics["cost/epochs"] == 2
    answer(here, "-m", *short, "seed=0,1", "hydra.job.chdir=true")
    sweep = Sweep.open("latest", here / "logs")
    (sweep.job(1).dir / "run.json").unlink()
    answer(tmp_path, f"sweep.resume={sweep.dir}")
    assert [job.status for job in sweep.jobs.values()] == ["completed", "completed"]
