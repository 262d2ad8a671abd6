"""`make check-configs`: a sound folder of configs passes, and each way of breaking one is found."""

import re
import shutil
from itertools import combinations
from pathlib import Path

import pytest

from lab.engine.utils.paths import CONFIGS
from tests.conftest import run_script

KEPT = {
    "data": ["digits", "text"],
    "model": ["lenet", "gpt"],
    "optimizer": ["adamw", "lbfgs"],
    "scheduler": ["none", "onecycle"],
    "trainer": ["auto", "cpu"],
    "callbacks": ["default", "none"],
    "logger": ["tensorboard", "none"],
    "debug": ["fast"],
    "experiment": ["digits_lenet"],
    "sweep": ["lr"],
}
BROKEN = [  # file, what is added at its end, what is said of it
    ("train.yaml", "unread: 1", "unread: nobody reads this key"),
    ("optimizer/adamw.yaml", "momentun: 0.9", "momentun"),
    ("trainer/cpu.yaml", "acelerator: cpu", "trainer.acelerator: Trainer takes no such argument"),
    ("scheduler/onecycle.yaml", "monitr: ${objective.metric}", "scheduler.monitr: nobody reads this key"),
    ("logger/none.yaml", "paths: {nowhere: '${paths.no_dir}'}", "paths.no_dir"),
    ("experiment/digits_lenet.yaml", "model: {chanels: [6, 16]}", "model.chanels: LeNet takes no such argument"),
    ("sweep/lr.yaml", "      optimizer.lrr: 1, 2", "sweep=lr: optimizer.lrr: no such key"),
]


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A copy of the configs with few choices, so that they are soon crossed."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    for group, names in KEPT.items():
        for path in (tmp_path / "configs" / group).glob("*.yaml"):
            if path.stem not in names:
                path.unlink()
    return tmp_path / "configs"


@pytest.mark.slow
def test_every_pair_of_choices_is_met_or_refused(few: Path) -> None:
    done = run_script("scripts/check_configs.py", "--configs", str(few), "--verbose")
    assert done.returncode == 0, done.stdout + done.stderr
    crossed = [len(names) + (group == "debug") for group, names in KEPT.items() if group not in ("experiment", "sweep")]
    with_experiments = [len(KEPT[group]) for group in ("trainer", "callbacks", "logger")]
    pairs = sum(a * b for a, b in combinations(crossed, 2)) + sum(2 * n for n in [*with_experiments, 2])
    counted = re.search(r"(\d+) pairs of choices, (\d+) of them refused in words, in (\d+) compositions", done.stdout)
    assert counted
    assert int(counted[1]) == pairs
    assert int(counted[2]) == 3  # lenet on text, gpt on digits, a schedule of momentum for L-BFGS
    assert int(counted[3]) < pairs / 2
    for said in ("model=gpt does not fit data=digits", "LBFGS has no momentum"):
        assert said in done.stdout


@pytest.mark.slow
def test_each_fault_is_found(few: Path) -> None:
    for name, line, _ in BROKEN:
        with (few / name).open("a") as file:
            file.write(f"{line}\n")
    done = run_script("scripts/check_configs.py", "--configs", str(few))
    assert done.returncode == 1, done.stderr
    for _, _, said in BROKEN:
        assert said in done.stdout, done.stdout
