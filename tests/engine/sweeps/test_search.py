"""Whole sweeps whose values Optuna draws: what the study says is what the directories say."""

import json
import math
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from lab.engine.runs.run import Run
from lab.engine.sweeps.study import open_study
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.paths import ROOT
from tests.conftest import SMALL, run_script
from tests.processes import begin

QUIET = ["callbacks.progress=null", "callbacks.summary=null", "trainer.enable_progress_bar=false", "logger=none"]
OPTUNA = ["-m", "hydra/sweeper=optuna", *SMALL, *QUIET, "model=mlp", "data.batch_size=50"]
LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
NONE = "hydra/sweeper/pruner=none"
STATES = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned"}


def n(trials: int) -> str:
    return f"hydra.sweeper.n_trials={trials}"


SWEEPS = {
    "asha": [LR, "model.hidden_sizes=[16],[32]", n(6), "trainer.max_epochs=3"],
    "several": [
        *(LR, "model.hidden_sizes=[8],[16],[32]", NONE, n(4), "trainer.max_epochs=1", "hydra/sweeper/sampler=nsga2"),
        "hydra.sweeper.objectives={val/loss: min, cost/parameters: min}",
        "hydra.sweeper.storage='sqlite:///${oc.env:STUDY_FOLDER}/sweeps.db'",
        'hydra.sweeper.constraints=["cost/parameters <= 10000"]',
    ],
    "ruled_out": [
        *(NONE, "hydra/sweeper/sampler=grid", "model.dropout=0.1,0.2,0.3", "trainer.max_epochs=1"),
        'hydra.sweeper.constraints=["model.dropout <= 0.25"]',
    ],
    "failing": ["optimizer=sgd", "optimizer.lr=1e30,2e30", NONE, n(4), "trainer.max_epochs=1"],
    "lacking": [LR, NONE, n(1), "trainer.max_epochs=1", "hydra.sweeper.objectives={val/gain: min}"],
    "seeds": [
        *("hydra/sweeper/pruner=wilcoxon", "hydra.sweeper.seeds=[0,1,2,3,4]", n(2), "trainer.max_epochs=2"),
        *("hydra/sweeper/sampler=grid", "optimizer.lr=1e-2,1e-6", "trainer.check_val_every_n_epoch=2"),
    ],
    "brief": [LR, n(3), "hydra.sweeper.timeout=0.01", "trainer.max_epochs=1"],
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> dict[str, Any]:
    """Every sweep, one after the other in a process: its exit status, what it said, and its directory."""
    folder = tmp_path_factory.mktemp("sweeps")
    paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={folder}/logs"]
    (folder / "logs").mkdir()
    words = {k: [*OPTUNA, *paths, *given, f"hydra.sweep.dir={folder}/{k}"] for k, given in SWEEPS.items()}
    probe = folder / "sweeps.py"
    probe.write_text(
        "import contextlib, io, json, os, runpy, sys\n"
        f"os.environ['STUDY_FOLDER'] = {str(folder)!r}\n"
        "done = {}\n"
        f"for name, words in {words!r}.items():\n"
        "    sys.argv = ['train.py', *words]\n"
        "    out, err, code = io.StringIO(), io.StringIO(), 0\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        "        try:\n"
        f"            runpy.run_path({str(ROOT / 'src' / 'train.py')!r}, run_name='__main__')\n"
        "        except SystemExit as left:\n"
        "            code = left.code\n"
        "    done[name] = {'code': code, 'out': out.getvalue(), 'err': err.getvalue()}\n"
        f"open({str(folder / 'done.json')!r}, 'w').write(json.dumps(done))\n"
    )
    ran = run_script(str(probe), timeout=280)
    assert ran.returncode == 0, ran.stderr
    os.environ["STUDY_FOLDER"] = str(folder)
    return {"dir": folder, **json.loads((folder / "done.json").read_text())}


def study_of(directory: Path) -> optuna.Study:
    record = Sweep(directory).metadata
    url = record["hydra"]["sweeper"]["storage"]
    url = url and url.replace("${oc.env:STUDY_FOLDER}", str(directory.parent))
    return open_study(directory, [one["mode"] for one in record["objectives"]], url)


def agree(directory: Path) -> list[FrozenTrial]:
    """Holds a finished study against the directories of its jobs, one for each trial."""
    trials, jobs = study_of(directory).get_trials(), Sweep(directory).jobs
    assert {t.number for t in trials if t.user_attrs["directory"]} == set(jobs)
    for number, run in jobs.items():
        trial = trials[number]
        assert STATES[trial.state] == run.status, number
        assert trial.user_attrs["directory"] == str(number)
        assert trial.user_attrs["metrics"] == run.metrics
        for name, value in trial.params.items():
            found = run.config.optimizer.lr if name == "optimizer.lr" else run.config.model[name.rpartition(".")[2]]
            assert str(found) == str(value), name
        if trial.state == TrialState.COMPLETE:
            assert trial.values == [run.metrics[one.metric] for one in Sweep(directory).objectives]
    return trials


@pytest.mark.slow
def test_a_sweep_prunes_and_its_study_agrees_with_its_directories(swept: dict[str, Any]) -> None:
    assert (swept["asha"]["code"], swept["asha"]["err"]) == (0, "")
    directory = swept["dir"] / "asha"
    trials = agree(directory)
    assert len(trials) == 6
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert len({str(t.params) for t in trials}) == 6
    for trial in pruned:
        run = Sweep(directory).job(trial.number)
        assert run.metrics["cost/epochs"] == max(trial.intermediate_values) < 3
        assert run.metrics["val/acc"] == max(trial.intermediate_values.values())
        assert not any(name.startswith("test/") for name in run.metrics)
    whole = max(trials, key=lambda t: (t.state == TrialState.COMPLETE, t.value))
    assert f"best: job {whole.number}, val/acc" in swept["asha"]["out"]
    assert f"{6 - len(pruned)} completed, {len(pruned)} pruned" in swept["asha"]["out"]


@pytest.mark.slow
def test_several_objectives_with_a_constraint_in_a_database(swept: dict[str, Any]) -> None:
    assert (swept["several"]["code"], swept["several"]["err"]) == (0, "")
    directory = swept["dir"] / "several"
    trials = agree(directory)
    assert len(trials) == 4
    assert not (directory / "study.journal").exists()
    assert "${oc.env:STUDY_FOLDER}" in Sweep(directory).metadata["hydra"]["sweeper"]["storage"]
    for trial in trials:
        [(text, violation)] = trial.constraints.items()
        assert text == "cost/parameters <= 10000"
        assert violation == trial.user_attrs["metrics"]["cost/parameters"] - 10000
    best = study_of(directory).best_trials
    assert best
    assert all(trial.values[1] <= 10000 for trial in best)
    fitting = [trial for trial in trials if trial.values[1] <= 10000]
    assert f"best: job {min(fitting, key=lambda trial: trial.values[0]).number}, val/loss" in swept["several"]["out"]


@pytest.mark.slow
def test_a_trial_whose_config_breaks_a_constraint_is_not_trained(swept: dict[str, Any]) -> None:
    assert (swept["ruled_out"]["code"], swept["ruled_out"]["err"]) == (0, "")
    trials = agree(swept["dir"] / "ruled_out")
    assert len(trials) == 3, "the grid, and not n_trials"
    [broken] = [trial for trial in trials if trial.params["model.dropout"] == 0.3]
    assert broken.state == TrialState.PRUNED
    assert broken.constraints["model.dropout <= 0.25"] == pytest.approx(0.05)
    assert not (swept["dir"] / "ruled_out" / str(broken.number)).exists()
    assert "is not trained: it breaks model.dropout <= 0.25" in swept["ruled_out"]["out"]


@pytest.mark.slow
def test_too_many_failures_end_a_sweep(swept: dict[str, Any]) -> None:
    done = swept["failing"]
    assert done["code"] == 1
    assert "3 of 4 trials failed, more than hydra.sweeper.max_failure_rate=0.5: the sweep ends" in done["out"]
    assert "3 of 3 jobs failed" in done["err"]
    assert "Traceback" not in done["err"]
    trials = study_of(swept["dir"] / "failing").get_trials()
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 3
    assert all("loss is" in trial.user_attrs["cause"] for trial in trials)


@pytest.mark.slow
def test_a_run_without_the_figure_has_failed(swept: dict[str, Any]) -> None:
    [trial] = study_of(swept["dir"] / "lacking").get_trials()
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["cause"].startswith("completed without val/gain, which the sweep is about: it has ")
    assert swept["lacking"]["code"] == 1
    assert "completed without val/gain" in swept["lacking"]["err"]


@pytest.mark.slow
def test_a_trial_is_pruned_between_its_seeds(swept: dict[str, Any]) -> None:
    assert (swept["seeds"]["code"], swept["seeds"]["err"]) == (0, "")
    sweep = Sweep(swept["dir"] / "seeds")
    trials = study_of(sweep.dir).get_trials()
    good, bad = sorted(trials, key=lambda trial: -trial.params["optimizer.lr"])
    for trial in trials:
        jobs = [sweep.job(int(number)) for number in trial.user_attrs["directory"].split()]
        assert [job.config.seed for job in jobs] == list(range(len(jobs)))
        assert {job.config.optimizer.lr for job in jobs} == {trial.params["optimizer.lr"]}
        assert [job.dir.name for job in jobs] == [str(5 * trial.number + i) for i in range(len(jobs))]
        figures = [job.metrics["val/acc"] for job in jobs]
        assert trial.user_attrs["metrics"]["val/acc"] == pytest.approx(math.fsum(figures) / len(figures))
        assert list(trial.intermediate_values.values()) == figures[:4]
    assert (good.state, good.value) == (TrialState.COMPLETE, good.user_attrs["metrics"]["val/acc"])
    if good.number < bad.number:
        assert bad.state == TrialState.PRUNED
        assert len(bad.user_attrs["directory"].split()) == 4


@pytest.mark.slow
def test_after_the_timeout_no_trial_is_begun(swept: dict[str, Any]) -> None:
    assert swept["brief"]["code"] == 0
    assert len(agree(swept["dir"] / "brief")) <= 1
    assert "hydra.sweeper.timeout=0.01: no more trials" in swept["brief"]["out"]


def states(directory: Path) -> list[TrialState]:
    return [trial.state for trial in study_of(directory).get_trials()] if (directory / "study.journal").exists() else []


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on(tmp_path: Path, data_dir: Path) -> None:
    """Killed amid a trial, and once more: in the end every trial is there once, and the books agree."""
    directory = tmp_path / "logs" / "sweeps" / "day" / "killed"
    words = [*OPTUNA, LR, n(5), "trainer.max_epochs=12", "data.batch_size=10", "callbacks.checkpoint.every_n_steps=50"]
    process = begin(tmp_path, data_dir, *words, f"hydra.sweep.dir={directory}")
    for finished in (1, 3):
        over = time.monotonic() + 120
        while sum(state.is_finished() for state in states(directory)) < finished:
            assert process.poll() is None, (tmp_path / "err").read_text()
            assert time.monotonic() < over
            time.sleep(0.1)
        time.sleep(0.1 * finished)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        before = {number: run.metadata.get("finished") for number, run in Sweep(directory).jobs.items()}
        process = begin(tmp_path, data_dir, f"sweep.resume={directory}")
    assert process.wait(timeout=200) == 0, (tmp_path / "err").read_text()
    trials = agree(directory)
    assert len(trials) == 5
    assert len({str(trial.params) for trial in trials}) == 5
    now = {number: run.metadata.get("finished") for number, run in Sweep(directory).jobs.items()}
    assert all(now[number] == when for number, when in before.items() if when), "what was finished was left alone"
    assert Run(directory / "0").metadata["status"] in ("completed", "pruned")


@pytest.mark.slow
def test_a_finished_trial_without_its_directory_is_told(tmp_path: Path, data_dir: Path) -> None:
    directory = tmp_path / "logs" / "sweeps" / "day" / "lost"
    process = begin(tmp_path, data_dir, *OPTUNA, LR, n(2), "trainer.max_epochs=1", f"hydra.sweep.dir={directory}")
    assert process.wait(timeout=120) == 0, (tmp_path / "err").read_text()
    shutil.rmtree(directory / "0")
    process = begin(tmp_path, data_dir, f"sweep.resume={directory}", n(3))
    assert process.wait(timeout=120) == 0, (tmp_path / "err").read_text()
    assert f"finished in the study, but gone from {directory}: trial 0" in (tmp_path / "out").read_text()
    assert sorted(Sweep(directory).jobs) == [1, 2]


@pytest.mark.slow
def test_trials_are_trained_and_pruned_side_by_side(tmp_path: Path, data_dir: Path) -> None:
    """Two processes report to the journal that a third one keeps."""
    directory = tmp_path / "logs" / "sweeps" / "day" / "parallel"
    two = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={directory}"]
    process = begin(tmp_path, data_dir, *OPTUNA, LR, n(7), "trainer.max_epochs=3", *two)
    assert process.wait(timeout=250) == 0, (tmp_path / "err").read_text()
    trials = agree(directory)
    assert len(trials) == 7
    assert any(trial.state == TrialState.PRUNED for trial in trials)
    times = [(trial.datetime_start, trial.datetime_complete) for trial in trials]
    assert all(times[i + 1][0] < times[i][1] for i in (0, 2, 4)), "they are asked for two at a time"  # type: ignore[operator]
