"""The study of a sweep: a journal that is cut anywhere, storages that cannot be used, decisions that are made once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState

from lab.engine.compat.optuna import reopen_trial
from lab.engine.sweeps.samplers import build_sampler, prunes
from lab.engine.sweeps.space import Space
from lab.engine.sweeps.storage import JOURNAL, drop_half_line, open_storage
from lab.engine.sweeps.study import PruningClient, load_trial, mean, open_study, sweeper_config
from lab.engine.sweeps.validate import check_pruner
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import ROOT

ASHA = {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 1, "reduction_factor": 3}
WILCOXON = {"_target_": "optuna.pruners.WilcoxonPruner", "p_threshold": 0.1}
NONE = {"_target_": "optuna.pruners.NopPruner"}
SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "width": optuna.distributions.IntDistribution(8, 64),
}


def grown(folder: Path, trials: int = 3, **more: Any) -> optuna.Study:
    """A study with some finished trials and one that runs."""
    folder.mkdir(exist_ok=True)
    study = open_study(folder, ["max"], **more)
    for number in range(trials):
        trial = study.ask(SPACE)
        trial.report(0.1 * number, 1)
        study.tell(trial, 0.1 * number)
    study.ask(SPACE)
    return study


def summary(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.values, t.params, t.intermediate_values) for t in study.get_trials()]


@pytest.mark.slow
def test_a_journal_that_is_cut_anywhere_goes_on(tmp_path: Path) -> None:
    """Every byte of the last records: what is whole is there, and what comes next is read by others."""
    grown(tmp_path / "whole")
    content = (tmp_path / "whole" / JOURNAL).read_bytes()
    lines = content.splitlines(keepends=True)
    begin = len(b"".join(lines[:-2]))
    folder = tmp_path / "cut"
    folder.mkdir()
    for end in range(begin, len(content)):
        (folder / JOURNAL).write_bytes(content[:end])
        study = open_study(folder, ["max"])
        before = summary(study)
        trial = study.ask(SPACE)
        study.tell(trial, 1.0)
        assert trial.number == len(before)
        again = summary(open_study(folder, ["max"]))
        assert again[:-1] == before
        assert again[-1][1:3] == (TrialState.COMPLETE, [1.0])
        assert all(json.loads(line) for line in (folder / JOURNAL).read_bytes().splitlines())


def test_mending_leaves_a_whole_journal_alone(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    for content, left in ((b"", b""), (b"{}\n", b"{}\n"), (b"{}\n{", b"{}\n"), (b"{", b"")):
        path.write_bytes(content)
        drop_half_line(path)
        assert path.read_bytes() == left


def test_a_damaged_journal_is_told_with_its_line(tmp_path: Path) -> None:
    grown(tmp_path / "study")
    path = tmp_path / "study" / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"{nonsense\n", *lines[5:]]))
    with pytest.raises(UserError, match=r"study\.journal cannot be read, line 5 is damaged"):
        open_study(tmp_path / "study", ["max"])


WRITER = """
import sys
from pathlib import Path
from lab.engine.sweeps.study import open_study
study = open_study(Path(sys.argv[1]), ["max"])
print("open", flush=True)
while True:
    study.ask().set_user_attr("text", "x" * 20000)
"""


@pytest.mark.slow
def test_writers_that_are_killed_hold_nobody_up(tmp_path: Path) -> None:
    """Whoever is killed amid a write leaves neither a lock nor half a line that others stumble over."""
    folder = tmp_path / "study"
    folder.mkdir()
    study = open_study(folder, ["max"])
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    for i in range(6):
        command = [sys.executable, "-c", WRITER, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            time.sleep(0.05 + 0.03 * i)
            writer.send_signal(signal.SIGKILL)
            writer.wait(timeout=10)
        begun = time.monotonic()
        study.tell(study.ask(SPACE), float(i))
        assert time.monotonic() - begun < 10, "Optuna's own lock would wait for 30 s"
    values = [t.value for t in open_study(folder, ["max"]).get_trials() if t.state == TrialState.COMPLETE]
    assert values == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_database_serves_as_well(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sweeps.db"
    first, second = tmp_path / "first", tmp_path / "second"
    study, other = grown(first, storage=url), grown(second, trials=1, storage=url)
    assert summary(open_study(first, ["max"], storage=url)) == summary(study)
    assert len(other.get_trials()) == 2
    assert not (first / JOURNAL).exists()
    elsewhere = tmp_path / "elsewhere" / "first"
    elsewhere.mkdir(parents=True)
    with pytest.raises(UserError, match=rf"holds a study first already, of the sweep in {first}"):
        open_study(elsewhere, ["max"], storage=url)
    (elsewhere / "0").mkdir()
    (elsewhere / "0" / "run.json").write_text("{}")  # the sweep was moved
    assert len(open_study(elsewhere, ["max"], storage=url).get_trials()) == 4


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nowhere", "expected null for a journal in the sweep's directory, or a database's URL"),
        ("me:secret@host", r"storage=.*\*\*\*@host: expected null"),
        ("sqlite://", "a database in memory ends with its process"),
        ("sqlite:////no/such/folder/sweeps.db", "cannot be opened: unable to open database file"),
        ("postgresql://me:secret@127.0.0.1:9/sweeps", r"me:\*\*\*@127.0.0.1:9/sweeps cannot be reached: .*Connection"),
        ("postgresql+pg8000://me@host.invalid/sweeps", "cannot be reached: host.invalid:5432"),
        ("nosuchdb://127.0.0.1/x", "nosuchdb://127.0.0.1/x: expected null"),
    ],
)
def test_a_storage_that_cannot_be_used_is_told_in_a_line(url: str, said: str) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match=said) as told:
        open_storage(Path(), url)
    assert time.monotonic() - begun < 30
    assert "secret" not in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_a_server_of_another_kind_is_told(tmp_path: Path) -> None:
    """Its port is open, and its driver is not installed, or hears no database."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=r"cannot be opened: .*psycopg"):
            open_storage(tmp_path, f"postgresql+psycopg2://me@127.0.0.1:{port}/sweeps")


SAMPLERS = {
    "tpe": {"_target_": "optuna.samplers.TPESampler", "seed": 0, "n_startup_trials": 3},
    "random": {"_target_": "optuna.samplers.RandomSampler", "seed": 0},
    "cmaes": {"_target_": "optuna.samplers.CmaEsSampler", "seed": 0, "n_startup_trials": 2},
    "gp": {"_target_": "optuna.samplers.GPSampler", "seed": 0, "n_startup_trials": 3},
    "nsga2": {"_target_": "optuna.samplers.NSGAIISampler", "seed": 0, "population_size": 4},
}


def drawn(folder: Path, sampler: dict[str, Any], trials: int, opened: int) -> list[dict[str, Any]]:
    """What is drawn in some trials, the study being opened anew after each `opened` of them."""
    folder.mkdir(exist_ok=True)
    study = open_study(folder, ["min"])
    for number in range(trials):
        if number % opened == 0:
            study = open_study(folder, ["min"])
        trial = study.with_sampler(build_sampler(OmegaConf.create(sampler), Space([], {}, {}), number)).ask(SPACE)
        study.tell(trial, (trial.params["width"] - 20) ** 2 + trial.params["lr"])
    return [t.params for t in study.get_trials()]


@pytest.mark.parametrize("name", [pytest.param(k, marks=pytest.mark.slow) if k == "gp" else k for k in SAMPLERS])
def test_a_sweep_that_goes_on_draws_what_the_straight_one_draws(name: str, tmp_path: Path) -> None:
    straight = drawn(tmp_path / "straight", SAMPLERS[name], 7, opened=9)
    assert straight == drawn(tmp_path / "resumed", SAMPLERS[name], 7, opened=2)
    assert len({str(params) for params in straight}) == 7, "none twice"
    assert straight != drawn(tmp_path / "other", SAMPLERS[name] | {"seed": 1}, 7, opened=9)


def test_sweeps_of_neighbouring_seeds_share_no_trial(tmp_path: Path) -> None:
    sampler = SAMPLERS["random"]
    drawings = [{str(p) for p in drawn(tmp_path / str(s), sampler | {"seed": s}, 9, 9)} for s in range(3)]
    assert len(set.union(*drawings)) == 27


def test_a_grid_is_gone_through_once(tmp_path: Path) -> None:
    space = Space.parse(["lr=0.1,0.2,0.3", "width=8,16"])
    grid = OmegaConf.create({"_target_": "optuna.samplers.GridSampler", "seed": 0})
    for number in range(6):
        study = open_study(tmp_path, ["min"]).with_sampler(build_sampler(grid, space, number))
        trial = study.ask()
        space.suggest(trial)
        study.tell(trial, float(number))
    assert len({str(t.params) for t in study.get_trials()}) == 6


def test_a_trial_that_was_half_drawn_is_drawn_to_its_end(tmp_path: Path) -> None:
    study = open_study(tmp_path, ["min"])
    trial = study.ask()
    trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    study = open_study(tmp_path, ["min"])
    again = reopen_trial(study, 0)
    assert again.suggest_float("lr", 1e-4, 1e-1, log=True) == trial.params["lr"]
    assert 8 <= again.suggest_int("width", 8, 64) <= 64
    assert len(study.get_trials()) == 1


@pytest.mark.parametrize(
    ("node", "seeds", "metrics", "said"),
    [
        (
            ASHA,
            None,
            ["val/acc", "cost/steps"],
            "follows one objective, and this sweep has 2: hydra/sweeper/pruner=none",
        ),
        (ASHA, None, ["test/acc"], "test/acc is known when a run is over"),
        (WILCOXON, None, ["val/acc"], "give at least 5 of them, such as hydra.sweeper.seeds="),
        (WILCOXON, [0, 1, 2, 3], ["val/acc"], "with p_threshold=0.1 give at least 5"),
        (WILCOXON | {"p_threshold": 0.01}, [0, 1, 2, 3, 4], ["val/acc"], "give at least 8"),
        (None, [1, 1], ["val/acc"], r"seeds=\[1, 1\]: expected null, or seeds that differ"),
        (None, [], ["val/acc"], r"seeds=\[\]: expected null"),
    ],
)
def test_a_pruner_without_anything_to_go_by_is_refused(
    node: dict[str, Any] | None, seeds: list[int] | None, metrics: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_pruner(node, seeds, metrics)
    check_pruner(NONE, None, metrics)
    check_pruner(ASHA, [0, 1], ["val/acc"])
    check_pruner(WILCOXON, [0, 1, 2, 3, 4], ["val/acc"])


def test_the_fewest_seeds_are_enough_for_wilcoxon(tmp_path: Path) -> None:
    """A trial that is worse with each of four seeds is ended before the fifth, and no earlier."""
    study = open_study(tmp_path, ["max"], pruner=WILCOXON)
    assert curves(study, [[0.9, 0.8, 0.9, 0.8, 0.9], [0.5, 0.4, 0.5, 0.4, 0.5]]) == [5, 4]


def curves(study: optuna.Study, values: list[list[float]]) -> list[int]:
    """How far each trial comes that would go through `values`, decided by a client of its own for each step."""
    steps = []
    for curve in values:
        number = study.ask(SPACE).number
        for step, value in enumerate(curve, start=1):
            if PruningClient(study, number).report(step, value, last=step == len(curve)):
                study.tell(number, state=TrialState.PRUNED)
                break
        else:
            study.tell(number, curve[-1])
        steps.append(step)
    return steps


VALUES = [[0.1 * (9 - trial) + 0.01 * step for step in range(9)] for trial in range(6)]


def test_asha_ends_trials_at_its_rungs(tmp_path: Path) -> None:
    study = open_study(tmp_path, ["max"], pruner=ASHA)
    assert curves(study, VALUES) == [9, 1, 1, 1, 1, 1]  # each is worse than the first
    states = [t.state for t in study.get_trials()]
    assert states == [TrialState.COMPLETE] + [TrialState.PRUNED] * 5
    assert study.get_trials()[1].value == pytest.approx(0.8), "a pruned trial is known by its last report"


def test_a_trial_that_goes_on_reports_no_step_twice_and_is_not_asked_again(tmp_path: Path) -> None:
    """ASHA notes that a trial has reached a rung; asked anew about the same step it would let everyone pass."""
    study = open_study(tmp_path, ["max"], pruner=ASHA)
    curves(study, VALUES[:1])
    number = study.ask(SPACE).number
    assert PruningClient(study, number).report(1, 0.0)
    for _ in range(2):  # killed, and gone on from a checkpoint before its first validation
        again = PruningClient(open_study(tmp_path, ["max"], pruner=ASHA), number)
        assert again.pruned
        assert not again.is_over(0), "without a checkpoint it is trained up to there again"
        assert again.is_over(1)
        assert again.report(1, 0.0)
        assert again.report(2, 5.0), "an end that was decided stays"
    assert study.get_trials()[number].intermediate_values == {1: 0.0}

    number = study.ask(SPACE).number
    assert not PruningClient(study, number).report(1, 2.0)
    assert not PruningClient(study, number).report(2, 2.1)
    again = PruningClient(study, number)
    assert [again.report(step, 0.0) for step in (1, 2)] == [False, False]  # without a warning, too
    assert study.get_trials()[number].intermediate_values == {1: 2.0, 2: 2.1}


@pytest.mark.parametrize(
    "pruner",
    [
        {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1},
        {"_target_": "optuna.pruners.HyperbandPruner", "min_resource": 1, "max_resource": 9},
        {"_target_": "optuna.pruners.WilcoxonPruner", "p_threshold": 0.1},
    ],
    ids=lambda pruner: str(pruner["_target_"]),
)
def test_other_pruners_end_the_worse_ones_too(pruner: dict[str, Any], tmp_path: Path) -> None:
    steps = curves(open_study(tmp_path, ["max"], pruner=pruner), VALUES)
    assert steps[0] == 9
    assert min(steps) < 9


def test_what_a_job_knows_of_its_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_FOLDER", str(tmp_path))
    sweeper = {"storage": "sqlite:///${oc.env:STUDY_FOLDER}/sweeps.db", "pruner": {**ASHA, "min_resource": "${fewest}"}}
    record = {
        "sweeper": "optuna",
        "objectives": [{"metric": "val/acc", "mode": "max"}],
        "config": {"fewest": 2, "other": "${nowhere}"},
        "hydra": {"sweeper": sweeper},
    }
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    found = sweeper_config(tmp_path)
    assert found["storage"] == f"sqlite:///{tmp_path}/sweeps.db"
    assert found["pruner"]["min_resource"] == 2
    assert prunes(found)
    assert not prunes(found | {"pruner": None})
    assert not prunes(found | {"pruner": {"_target_": "optuna.pruners.NopPruner"}})
    assert not prunes(found | {"seeds": [0, 1]})
    with pytest.raises(UserError, match="has no trial 0"):
        load_trial(tmp_path / "0")
    study = open_study(tmp_path, ["max"], found["storage"], found["pruner"])
    study.ask(SPACE)
    assert load_trial(tmp_path / "0") is not None
    assert load_trial(tmp_path / "checkpoints") is None
    (tmp_path / "sweep.json").write_text(json.dumps(record | {"sweeper": "grid"}))
    assert load_trial(tmp_path / "0") is None


def test_means_are_of_what_all_have() -> None:
    assert mean([{"a": 1.0, "b": 2.0}, {"a": 2.0}]) == {"a": 1.5}
