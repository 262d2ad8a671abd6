"""Sweeps over lists: books, failures, killing and going on."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lab.compose import compose
from lab.runs import Run
from lab.sweeps.sweep import Sweep
from tests.conftest import SMALL, Command, run_script
from tests.processes import begin, members

QUIET = ["callbacks.progress=null", "callbacks.summary=null", "trainer.enable_progress_bar=false"]
QUICK = [*SMALL, *QUIET, "model=mlp", "logger=none", "trainer.max_epochs=1"]
LONG = [*SMALL, *QUIET, "model=mlp", "model.hidden_sizes=[8]", "data.batch_size=32", "trainer.max_epochs=40"]


def the_sweep(tmp_path: Path) -> Sweep:
    return Sweep.open("latest", tmp_path / "logs")


def changed(sweep: Sweep) -> dict[int, int]:
    """When the figures of each finished job were written."""
    return {n: (run.dir / "metrics.json").stat().st_mtime_ns for n, run in sweep.jobs.items() if run.metrics}


@pytest.fixture
def swept(tmp_path: Path, train_command: Command) -> Sweep:
    done = train_command("-m", *QUICK, "optimizer.lr=1e-3,1e-2", "seed=0,1")
    assert done.returncode == 0, done.stderr
    return the_sweep(tmp_path)


def test_a_sweep_keeps_books_and_its_winner(swept: Sweep, tmp_path: Path, train_command: Command) -> None:
    assert list(swept.jobs) == [0, 1, 2, 3]
    assert swept.status == "completed"
    assert swept.record["space"] == {"optimizer.lr": "1e-3,1e-2", "seed": "0,1"}
    [objective] = swept.objectives
    assert (objective.metric, objective.mode) == ("val/acc", "max")

    scores = {n: run.metrics["val/acc"] for n, run in swept.jobs.items()}
    best = max((0, 2), key=lambda n: scores[n] + scores[n + 1])  # the means over both seeds
    text = (swept.dir / "best.yaml").read_text()
    [word] = [word for word in text.split() if word.startswith("experiment=")]
    winner = compose([word])
    assert winner.optimizer.lr == swept.job(best).config.optimizer.lr
    for key in ("model", "data", "trainer", "callbacks", "logger"):
        assert winner[key] == swept.job(best).saved[key], key

    # A finished sweep that is asked to go on starts nothing
    before = changed(swept)
    again = train_command("sweep.resume=latest")
    assert again.returncode == 0, again.stderr
    assert changed(swept) == before
    assert "torch" not in again.stderr


def test_a_changed_sweep_is_refused(swept: Sweep, train_command: Command) -> None:
    for words, said in [
        (["optimizer.lr=1e-3,1e-1", "seed=0,1"], "optimizer.lr: 1e-3,1e-2 then, 1e-3,1e-1 now"),
        (["optimizer.lr=1e-3,1e-2", "seed=0,1", "data.batch_size=64"], "data.batch_size: 128 then, 64 now"),
    ]:
        answer = train_command("-m", *QUICK, *words, f"sweep.resume={swept.dir}")
        assert answer.returncode == 2
        assert said in answer.stderr
    answer = train_command("-m", *QUICK, "seed=0,1", f"hydra.sweep.dir={swept.dir}")
    assert answer.returncode == 2
    assert "holds a sweep already" in answer.stderr


def test_a_resume_that_is_no_sweep_is_answered(swept: Sweep, tmp_path: Path, train_command: Command) -> None:
    for asked, said in [
        (tmp_path, "is no sweep"),
        (swept.dir / "0", f"is one job of a sweep: give {swept.dir}"),
        (str(swept.dir)[:-1], f"did you mean {swept.dir}?"),
    ]:
        answer = train_command(f"sweep.resume={asked}")
        assert answer.returncode == 2
        assert said in answer.stderr


def test_a_job_that_fails_does_not_end_the_others(tmp_path: Path, train_command: Command) -> None:
    # Data of its own in a file that only one of the jobs finds damaged
    (tmp_path / "bad.csv").write_text("size,kind\n" + "1,a\n" * 20)
    (tmp_path / "good.csv").write_text("size,kind\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(60)))
    words = ["data=csv", "data.target=kind", "model=logistic_regression", *QUIET, "logger=none", "trainer.max_epochs=1"]
    files = ",".join(f"{tmp_path}/{name}.csv" for name in ("good", "bad"))
    done = train_command("-m", *words, "seed=0,1", f"data.path={files}", "+callbacks.faulty._target_=lab.none")
    assert done.returncode == 2, "a wrong word is told before the first job"
