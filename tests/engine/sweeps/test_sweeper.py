"""Sweeps over lists: books, failures, killing and going on."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lab.engine.config.compose import compose
from lab.engine.config.identity import differences
from lab.engine.sweeps.resume import choice_configs
from lab.engine.sweeps.space import Space
from lab.engine.sweeps.sweep import Sweep
from tests.conftest import SMALL, Command, choices, refusal, run_script
from tests.processes import begin

QUIET = ["callbacks.progress=null", "callbacks.summary=null", "trainer.enable_progress_bar=false"]
QUICK = [*SMALL, *QUIET, "model=mlp", "logger=none", "trainer.max_epochs=1"]
LONG = [*SMALL, *QUIET, "model=mlp", "model.hidden_sizes=[8]", "data.batch_size=32", "trainer.max_epochs=150"]


def the_sweep(tmp_path: Path) -> Sweep:
    return Sweep.open("latest", tmp_path / "logs")


def train(folder: Path, data_dir: Path, *words: str, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
    paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={folder}/logs"]
    return run_script("src/train.py", *words, *paths, timeout=timeout)


def changed(sweep: Sweep) -> dict[int, int]:
    """When the figures of each finished job were written."""
    return {n: (run.dir / "metrics.json").stat().st_mtime_ns for n, run in sweep.jobs.items() if run.metrics}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Sweep:
    folder = tmp_path_factory.mktemp("swept")
    done = train(folder, data_dir, "-m", *QUICK, "optimizer.lr=1e-3,1e-2", "seed=0,1")
    assert done.returncode == 0, done.stderr
    return the_sweep(folder)


def test_a_sweep_keeps_books_and_its_winner(swept: Sweep, data_dir: Path) -> None:
    assert list(swept.jobs) == [0, 1, 2, 3]
    assert swept.status == "completed"
    assert swept.metadata["space"] == {"optimizer.lr": "1e-3,1e-2", "seed": "0,1"}
    [objective] = swept.objectives
    assert (objective.metric, objective.mode) == ("val/acc", "max")

    scores = {n: run.metrics["val/acc"] for n, run in swept.jobs.items()}
    best = max((0, 2), key=lambda n: scores[n] + scores[n + 1])  # the means over both seeds
    text = (swept.dir / "best.yaml").read_text()
    [word] = [word for word in text.split() if word.startswith("experiment=")]
    winner: Any = OmegaConf.to_container(compose([word]), resolve=False)
    trained: Any = OmegaConf.to_container(swept.job(best).saved, resolve=False)
    assert winner["optimizer"]["lr"] == trained["optimizer"]["lr"] in (0.001, 0.01)
    assert {key.split(".")[0] for key, *_ in differences(winner, trained)} <= {"paths", "seed"}

    # A finished sweep that is asked to go on starts nothing
    before = changed(swept)
    again = train(swept.dir.parents[3], data_dir, "sweep.resume=latest")
    assert again.returncode == 0, again.stderr
    assert changed(swept) == before
    assert "torch" not in again.stderr
    elsewhere = train(swept.dir.parents[3], data_dir, "sweep.resume=latest", "hydra/launcher=gpu_pool")
    assert elsewhere.returncode == 0, elsewhere.stderr


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


@pytest.mark.parametrize("name", choices("sweep"))
def test_a_search_of_configs_chooses_by_validation_alone(name: str) -> None:
    assert compose([f"sweep={name}"]).test is False


def test_a_resume_that_is_no_sweep_is_answered(swept: Sweep, tmp_path: Path) -> None:
    for asked, said in [
        (tmp_path, "is no sweep"),
        (swept.dir / "0", f"is one job of a sweep: give {swept.dir}"),
        (str(swept.dir)[:-1], f"did you mean {swept.dir}?"),
    ]:
        assert said in refusal(f"sweep.resume={asked}", f"paths.log_dir={swept.dir.parents[2]}")


def test_a_swept_choice_is_all_that_its_files_make() -> None:
    """Those that it builds upon as well, as Hydra composes them."""
    found = choice_configs(Space.parse(["experiment=blobs_mlp,mnist_lenet", "seed=0,1"]))
    assert set(found) == {"experiment=blobs_mlp", "experiment=mnist_lenet"}
    changed = found["experiment=blobs_mlp"]
    assert (changed["model._target_"], changed["data._target_"]) == ("lab.models.mlp.MLP", "lab.data.blobs.Blobs")
    assert changed["trainer.max_epochs"] == 5


@pytest.mark.slow
def test_a_grid_that_goes_on_keeps_to_its_numbers(tmp_path: Path, data_dir: Path) -> None:
    """Whatever the order of the words is, and however they are shuffled."""
    words = [*QUICK, "optimizer.lr=1e-3,1e-2", "seed=shuffle(0,1,2)"]
    assert train(tmp_path, data_dir, "-m", *words).returncode == 0
    sweep = the_sweep(tmp_path)
    planned = {n: (run.config.optimizer.lr, run.config.seed) for n, run in sweep.jobs.items()}
    assert len(set(planned.values())) == 6
    for number in (1, 4):
        shutil.rmtree(sweep.dir / str(number))
    again = train(tmp_path, data_dir, "-m", "sweep.resume=latest", *reversed(words))
    assert again.returncode == 0, again.stderr
    assert {n: (run.config.optimizer.lr, run.config.seed) for n, run in sweep.jobs.items()} == planned


@pytest.mark.slow
def test_a_job_that_fails_does_not_end_the_others(tmp_path: Path, train_command: Command) -> None:
    for name, length in (("long", 4000), ("short", 40)):
        (tmp_path / f"{name}.txt").write_text("all work and no play " * (length // 21))
    words = [
        "data=text",
        "data.context_length=16",
        "model=gpt",
        *QUIET,
        "logger=none",
        "trainer.max_steps=1",
        "test=false",
    ]
    done = train_command("-m", *words, "seed=0,1", f"data.path={tmp_path}/short.txt,{tmp_path}/long.txt")
    assert done.returncode == 1
    sweep = the_sweep(tmp_path)
    assert sweep.status == "failed"
    assert {n: run.status for n, run in sweep.jobs.items()} == dict(enumerate(["failed", "completed"] * 2))
    *_, told = done.stderr.partition("error: ")
    assert told.startswith("2 of 4 jobs failed")
    for line in ("job 0: ", "job 2: "):
        assert f"{line}ValueError" in told or f"{line}{tmp_path}/short.txt" in told
    assert "Traceback" not in done.stderr
    assert f"sweep.resume={sweep.dir}" in told

    before = changed(sweep)
    (tmp_path / "short.txt").write_text((tmp_path / "long.txt").read_text())
    again = train_command("sweep.resume=latest")
    assert again.returncode == 0, again.stderr
    assert {run.status for run in sweep.jobs.values()} == {"completed"}
    assert before.items() <= changed(sweep).items()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sweeper", ["grid", "optuna"])
def test_a_sweep_is_killed_ten_times(sweeper: str, tmp_path: Path, data_dir: Path) -> None:
    """Twelve trials, each trained once, whenever the parent is killed."""
    space = {
        "grid": ["optimizer.lr=1e-3,3e-3,1e-2", "seed=range(4)"],
        "optuna": ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=12", "optimizer.lr=tag(log,interval(1e-4,1e-1))"],
    }[sweeper]
    words = ["-m", *LONG, *space]
    moments, finished = random.Random(sweeper), 0
    before: dict[int, int] = {}
    for kill in range(10):
        process = begin(tmp_path, data_dir, *words)
        try:
            folders = list((tmp_path / "logs").glob("sweeps/*/*"))
            # From the first words of Hydra to a few trials later; a third of them once training is under way. However
            # fast the machine is, the last trial is not begun before the last kill
            _sleep_or_end(process, moments.uniform(0.2, 12.0), tmp_path / "logs", most=kill + 2)
            assert process.poll() is None, "it came to its end before it could be killed"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        found = list((tmp_path / "logs").glob("sweeps/*/*/sweep.json"))
        assert len(found) <= 1, folders
        if found:
            sweep = Sweep(found[0].parent)
            now = changed(sweep)
            assert before.items() <= now.items(), f"kill {kill}: a finished trial was trained again"
            before, finished = now, len(now)
            words = ["sweep.resume=latest"]
    assert finished < 12
    done = train(tmp_path, data_dir, *words, timeout=600)  # ten trials or so
    assert done.returncode == 0, done.stderr
    assert list(sweep.jobs) == list(range(12))
    assert before.items() <= changed(sweep).items()
    assert {run.status for run in sweep.jobs.values()} <= {"completed", "pruned"}
    assert len({tuple(run.overrides) for run in sweep.jobs.values()}) == 12, "all are distinct"
    for run in sweep.jobs.values():
        assert run.status == "pruned" or run.metrics["cost/epochs"] == 150
        starts = [run.metadata["started"], *(start["started"] for start in run.metadata.get("resumed", []))]
        assert len(starts) <= 11
    if sweeper == "optuna":
        _assert_journal_agrees(sweep)


def _sleep_or_end(process: "subprocess.Popen[str]", seconds: float, logs: Path, most: int) -> None:
    """Sleeps until the time is over, the process is, or `most` jobs have begun."""
    over = time.monotonic() + seconds
    while time.monotonic() < over and process.poll() is None and len(list(logs.glob("sweeps/*/*/*/run.json"))) < most:
        time.sleep(0.02)


def _assert_journal_agrees(sweep: Sweep) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    backend = JournalFileBackend(str(sweep.dir / "study.journal"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert [trial.number for trial in study.trials] == list(range(12))
    for trial in study.trials:
        run = sweep.job(trial.number)
        assert trial.state.name == {"completed": "COMPLETE", "pruned": "PRUNED"}[run.status]
        assert trial.state.name == "PRUNED" or trial.value == run.metrics["val/acc"]
        assert trial.params["optimizer.lr"] == run.config.optimizer.lr
