"""A run again, from its directory alone: equal to the last bit, or told apart."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from reproduce_run import same

from lab.engine.config.compose import compose
from lab.engine.config.identity import ABSENT, differences
from lab.engine.config.overrides import to_override
from lab.engine.runs.provenance import collect_metadata
from lab.engine.runs.reproduce import changes_since, copy_run
from lab.engine.runs.run import Run
from lab.engine.utils.errors import UserError
from lab.engine.utils.git import save_patch
from tests.conftest import run_script


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="session")
def made(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small run, as `src/train.py` leaves it in this checkout."""
    directory = Path(shutil.copytree(runs["sgd"], tmp_path_factory.mktemp("made") / "sgd"))
    edit(directory / "run.json", **collect_metadata())
    save_patch(directory / "code.patch")
    return directory


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name, ignore=shutil.ignore_patterns("*.ckpt")))


def again(run: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return run_script("scripts/reproduce_run.py", f"run={run}", *words)


@pytest.mark.slow
def test_a_run_again_has_the_same_figures(run: Path) -> None:
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    before = again(run)
    assert before.returncode == 0, before.stdout + before.stderr
    assert "equal within 0;" in before.stdout
    for name, value in json.loads((run / "metrics.json").read_text()).items():
        assert re.search(rf"{name}\W.*{value:.8g}\b", before.stdout), name
    [copy] = run.parent.glob(f"{run.name}-again-*")
    assert OmegaConf.load(copy / ".hydra" / "config.yaml") == config
    for name in ("hydra.yaml", "overrides.yaml"):
        assert (copy / ".hydra" / name).is_file()
    assert json.loads((copy / "run.json").read_text())["status"] == "completed"


@pytest.mark.slow
def test_the_saved_config_counts_and_other_figures_are_told(run: Path) -> None:
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    config.optimizer.lr = 0.02
    config.model.hidden_sizes = [16]
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    done = again(run)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "differs" in done.stdout
    assert "not equal within 0" in done.stdout
    [copy] = run.parent.glob(f"{run.name}-again-*")
    assert OmegaConf.load(copy / ".hydra" / "config.yaml") == config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"git": {"commit": "0123abcd", "dirty": False}}, ["commit then 0123abcd, now "]),
        ({"versions": {"torch": "1.0.0", "python": "2.7"}}, ["torch then 1.0.0, now", "python then 2.7, now"]),
    ],
    ids=["commit", "versions"],
)
def test_other_code_is_refused(changes: dict[str, Any], said: list[str], run: Path) -> None:
    edit(run / "run.json", **changes)
    done = again(run)
    assert done.returncode == 2
    for part in [*said, "force=true"]:
        assert part in done.stderr
    assert not list(run.parent.glob("*-again-*"))


@pytest.mark.slow
def test_a_changed_file_is_named(run: Path) -> None:
    with (run / "code.patch").open("a") as file:
        file.write("diff --git a/src/lab/optim.py b/src/lab/optim.py\n--- a\n+++ b\n")
    record = json.loads((run / "run.json").read_text())
    record["git"]["dirty"] = True
    assert changes_since(run, record) == ["files changed since: src/lab/optim.py"]
    (run / "code.patch").unlink()
    assert changes_since(run, record) == ["files differed from the commit then, and there is no code.patch"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tolerance=some"], "tolerance=some: expected a number from 0"),
        (["tolerance=-1"], "tolerance=-1: expected a number from 0"),
        (["force=yes"], "force=yes: expected true or false"),
        (["seed"], "'seed' is no argument"),
    ],
)
def test_wrong_words_are_answered(words: list[str], said: str, run: Path) -> None:
    done = again(run, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_figures_is_refused(run: Path) -> None:
    (run / "metrics.json").unlink()
    done = again(run)
    assert done.returncode == 2
    assert "nothing to compare with" in done.stderr


def test_the_config_is_the_saved_one_but_for_what_is_given_and_what_is_drawn(run: Path, tmp_path: Path) -> None:
    path = run / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    config.trainer.gradient_clip_val = 0.5  # today's default is another
    config.mine = {"note": "a path/with 'quotes' and ${paths.root_dir}"}  # a key that is gone today
    OmegaConf.save(config, path)
    copy_run(Run(run), tmp_path / "same")
    assert OmegaConf.load(tmp_path / "same" / ".hydra" / "config.yaml") == config
    copy_run(Run(run), tmp_path / "other", ["optimizer.lr=0.5", "callbacks=none", "~mine"])
    other = OmegaConf.load(tmp_path / "other" / ".hydra" / "config.yaml")
    assert other.optimizer.lr == 0.5
    assert not any((other.callbacks or {}).values())
    assert "mine" not in other
    assert other.trainer.gradient_clip_val == 0.5
    for directory in ("same", "other"):
        for name in ("hydra.yaml", "overrides.yaml"):
            assert (tmp_path / directory / ".hydra" / name).is_file()
    with pytest.raises(UserError, match=r"did you mean optimizer\.lr"):
        copy_run(Run(run), tmp_path / "wrong", ["optimizer.lrr=1"])
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    "value", [None, True, 1, -2.5e-7, "", "a b", "it's", "${x.y}", "a\\'b", [1, [2, "x"]], {"a": "1"}]
)
def test_values_are_written_as_hydra_reads_them(value: Any) -> None:
    made: Any = OmegaConf.to_container(compose([f"+dims.probe={to_override(value)}"]), resolve=False)
    assert made["dims"]["probe"] == value


def test_differences_tell_types_apart() -> None:
    assert list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1.0}})) == [("a.b", 1, 1.0), ("a.c", 2, ABSENT)]


def test_figures_are_the_same_within_a_tolerance() -> None:
    nan = float("nan")
    assert same(1.0, 1.0, 0)
    assert same(1.0, 1.1, 0.2)
    assert same(nan, nan, 0)
    assert not same(1.0, 1.0 + 1e-12, 0)
    assert not same(1.0, nan, 1)
    assert not same(None, 1.0, 1)
