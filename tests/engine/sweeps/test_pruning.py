"""A hopeless trial ends early: on every rank, in a run that is complete but for its test."""

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.runs.resume import resumed_config
from lab.engine.runs.run import Run
from lab.engine.sweeps.study import PRUNING, PruningClient, open_study
from lab.engine.utils.errors import Preempted, UserError
from tests.conftest import SMALL, Compose
from tests.engine.runs.test_resume import start, stopping_at
from tests.processes import await_end, begin, members

RUN = [*SMALL, "model=mlp", "data.batch_size=50", "trainer.max_epochs=6", "logger=none", PRUNING]
# Ends every trial that has not come to an accuracy of 2 by its third validation
AT_THE_THIRD = {"_target_": "optuna.pruners.ThresholdPruner", "lower": 2.0, "n_warmup_steps": 3}
NEVER = {"_target_": "optuna.pruners.ThresholdPruner", "lower": -1.0}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The directory of an Optuna sweep with one trial that waits to be trained."""
    return begun(tmp_path / "logs" / "sweep", AT_THE_THIRD)


def begun(directory: Path, pruner: dict[str, Any]) -> Path:
    directory.mkdir(parents=True)
    record = {
        "sweeper": "optuna",
        "objectives": [{"metric": "val/acc", "mode": "max"}],
        "config": {},
        "hydra": {"sweeper": {"storage": None, "pruner": pruner}},
    }
    (directory / "sweep.json").write_text(json.dumps(record))
    open_study(directory, ["max"], pruner=pruner).ask()
    return directory


def trial(sweep: Path) -> optuna.trial.FrozenTrial:
    return open_study(sweep, ["max"]).get_trials()[0]


def of(sweep: Path) -> str:
    return f"paths.run_dir={sweep}/0"


def test_a_pruned_run_is_complete_but_for_its_test(cfg: Compose, sweep: Path) -> None:
    start(cfg(*RUN, of(sweep)))
    run = Run(sweep / "0")
    assert (run.status, run.metadata["pruned"]) == ("pruned", 3)
    assert "trained" not in run.metadata
    last = read_checkpoint(run.checkpoint("last"))
    assert last["global_step"] == 30, "three epochs"
    values = trial(sweep).intermediate_values
    assert list(values) == [1, 2, 3]
    assert run.metrics["val/acc"] == max(values.values()), "the best so far"
    assert run.metrics["cost/epochs"] == 3
    assert run.metrics["cost/steps"] == 30
    assert {name.partition("/")[0] for name in run.metrics} == {"train", "val", "cost"}
    assert read_checkpoint(run.checkpoint("best"))["global_step"] == 10 * max(values, key=lambda step: values[step])


def test_nobody_goes_on_with_a_pruned_run_by_mistake(cfg: Compose, sweep: Path) -> None:
    start(cfg(*RUN, of(sweep)))
    for more in ([], ["trainer.max_epochs=9"]):
        with pytest.raises(UserError, match="its sweep has ended this run, after validation 3"):
            resumed_config(cfg(of(sweep), f"resume={sweep}/0", f"changes={more}"))


def test_a_run_that_comes_to_its_end_is_completed(cfg: Compose, sweep: Path) -> None:
    """Its last validation is reported, and nothing is left to prune."""
    start(cfg(*RUN, "trainer.max_epochs=3", of(sweep)))
    run = Run(sweep / "0")
    assert run.status == "completed"
    assert "test/acc" in run.metrics
    assert list(trial(sweep).intermediate_values) == [1, 2, 3]


def test_validations_are_counted_where_epochs_are_long(cfg: Compose, sweep: Path) -> None:
    start(cfg(*RUN, "trainer.val_check_interval=4", of(sweep)))  # of ten batches
    run = Run(sweep / "0")
    assert (run.status, run.metrics["cost/steps"]) == ("pruned", 14)


@pytest.mark.parametrize("asked", [*(pytest.param(step, marks=pytest.mark.slow) for step in (5, 15, 25)), 30])
def test_a_run_that_was_stopped_is_pruned_as_the_straight_one(
    asked: int, cfg: Compose, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before, between and at the very step that prunes it."""
    straight = begun(tmp_path / "straight", AT_THE_THIRD)
    start(cfg(*RUN, of(straight)))
    with monkeypatch.context() as patch:
        stopping_at([asked], patch)
        with pytest.raises(Preempted):
            start(cfg(*RUN, of(sweep)))
    assert Run(sweep / "0").status == "preempted"
    start(cfg(*RUN, of(sweep), f"resume={sweep}/0"))
    run, other = Run(sweep / "0"), Run(straight / "0")
    assert (run.status, run.metadata["pruned"]) == ("pruned", 3)
    assert trial(sweep).intermediate_values == trial(straight).intermediate_values
    timed = ("cost/seconds", "train/samples_per_second")
    assert {k: v for k, v in run.metrics.items() if k not in timed} == {
        k: v for k, v in other.metrics.items() if k not in timed
    }


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False], ids=["from a checkpoint", "from the beginning"])
def test_a_kill_between_a_decision_and_its_end_changes_nothing(
    kept: bool, cfg: Compose, sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision is in the study, the checkpoint is the one before, or there is none; no step is reported twice."""
    decide = PruningClient.report
    more = [] if kept else ["callbacks.checkpoint.every_n_epochs=0", "callbacks.checkpoint.monitor=null"]

    def die(self: PruningClient, step: int, value: float, last: bool = False) -> bool:
        if decide(self, step, value, last):
            raise SystemExit("killed")
        return False

    with monkeypatch.context() as patch:
        patch.setattr(PruningClient, "report", die)
        with pytest.raises(SystemExit, match="killed"):
            start(cfg(*RUN, *more, of(sweep)))
    reported = trial(sweep).intermediate_values
    assert list(reported) == [1, 2, 3]
    again = [f"resume={sweep}/0"] if kept else []
    if not kept:
        shutil.rmtree(sweep / "0")
    start(cfg(*RUN, *more, of(sweep), *again))
    run = Run(sweep / "0")
    assert (run.status, run.metrics["cost/steps"]) == ("pruned", 30)
    assert trial(sweep).intermediate_values == reported


@pytest.mark.slow
def test_a_run_outside_of_such_a_sweep_is_left_alone(cfg: Compose, tmp_path: Path) -> None:
    kept = begun(tmp_path / "kept", NEVER)
    start(cfg(*RUN, of(kept)))
    assert Run(kept / "0").status == "completed"
    grid = begun(tmp_path / "grid", AT_THE_THIRD)
    record = json.loads((grid / "sweep.json").read_text())
    (grid / "sweep.json").write_text(json.dumps(record | {"sweeper": "grid"}))
    start(cfg(*RUN, of(grid)))
    assert Run(grid / "0").status == "completed"
    assert trial(grid).intermediate_values == {}


@pytest.mark.slow
def test_two_ranks_are_pruned_together(sweep: Path, tmp_path: Path, data_dir: Path) -> None:
    process = begin(tmp_path, data_dir, *RUN, "trainer=ddp_cpu", f"hydra.run.dir={sweep}/0")
    assert await_end(tmp_path, process, 120) == 0, (tmp_path / "err").read_text()
    assert not members(tmp_path), "all are gone"
    run = Run(sweep / "0")
    assert (run.status, run.metadata["pruned"]) == ("pruned", 3), (tmp_path / "out").read_text()
    assert run.metrics["cost/epochs"] == 3
    assert list(trial(sweep).intermediate_values) == [1, 2, 3], "one rank reports"
    assert read_checkpoint(run.checkpoint("last"))["global_step"] == 30
    assert "2 x cpu" in run.metadata["devices"]
    assert (tmp_path / "err").read_text() == ""
