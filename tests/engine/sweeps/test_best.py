"""Which job of a sweep wins, and the experiment file that it leaves."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from reproduce import Experiment, summarize

from lab.engine.analysis.comparison import compare
from lab.engine.analysis.run_record import find_runs
from lab.engine.analysis.table import notes
from lab.engine.config.compose import compose
from lab.engine.runs.run import Run
from lab.engine.sweeps.best import rank, write_best
from lab.engine.sweeps.sweep import Sweep

NAN = float("nan")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    sweep = Sweep(tmp_path / "swept")
    sweep.dir.mkdir()
    sweep.update(objectives=[{"metric": "val/acc", "mode": "max"}])
    return sweep


def put(
    sweep: Sweep,
    words: Sequence[str],
    score: float | None,
    status: str = "completed",
    epochs: float = 1.0,
) -> Run:
    """A job as its run leaves it, with the config that its words make."""
    run = sweep.job(len(sweep.jobs))
    (run.dir / ".hydra").mkdir(parents=True)
    config = compose(words, hydra=True)
    assert isinstance(config, DictConfig)
    names = [str(name) for name in config if name != "hydra"]
    OmegaConf.save(OmegaConf.masked_copy(config, names), run.dir / ".hydra" / "config.yaml")
    choices = {"hydra": {"runtime": {"choices": config.hydra.runtime.choices}}}
    OmegaConf.save(OmegaConf.create(choices), run.dir / ".hydra" / "hydra.yaml")
    OmegaConf.save(OmegaConf.create(list(words)), run.dir / ".hydra" / "overrides.yaml")
    started = f"2026-11-22T08:00:{int(run.dir.name):02}"
    (run.dir / "run.json").write_text(json.dumps({"status": status, "seed": config.seed, "started": started}))
    metrics = {"cost/epochs": epochs, "cost/seconds": 12.3} | ({} if score is None else {"val/acc": score})
    (run.dir / "metrics.json").write_text(json.dumps(metrics))
    return run


def winner(sweep: Sweep) -> list[str]:
    return [run.dir.name for run in rank(sweep, sweep.objectives[0])[0]]


def test_the_mean_over_seeds_wins(sweep: Sweep) -> None:
    for lr, scores in (("1e-3", (0.9, 0.7)), ("1e-2", (0.85, 0.85)), ("1e-1", (0.2, 0.2))):
        for seed, score in enumerate(scores):
            put(sweep, [f"seed={seed}", f"optimizer.lr={lr}"], score)
    assert winner(sweep) == ["2", "3"]


@pytest.mark.parametrize(
    ("seed", "score", "status"), [(1, None, "failed"), (1, NAN, "completed"), (1, 0.9, "pruned"), (0, 0.9, "completed")]
)
def test_who_lost_a_seed_does_not_win_by_the_others(seed: int, score: float | None, status: str, sweep: Sweep) -> None:
    put(sweep, ["optimizer.lr=1e-3", "seed=0"], 0.99)
    put(sweep, ["optimizer.lr=1e-3", f"seed={seed}"], score, status)  # the last: the same one twice
    for other in (0, 1):
        put(sweep, ["optimizer.lr=1e-2", f"seed={other}"], 0.5)
    assert winner(sweep) == ["2", "3"]


def test_the_table_and_the_file_have_one_winner(sweep: Sweep) -> None:
    for seed in range(5):
        put(sweep, ["optimizer.lr=1e-3", f"seed={seed}"], *((0.99,) if seed == 0 else (None, "failed")))
    for seed in range(5):
        put(sweep, ["optimizer.lr=1e-2", f"seed={seed}"], 0.8)
    put(sweep, ["optimizer.lr=1e-1", "seed=0"], 0.95)  # the directories of its other seeds are gone
    put(sweep, ["optimizer.lr=1e-4", "seed=0"], None, "failed")
    for seed in range(5):  # as good, and later
        put(sweep, ["model=cnn", f"seed={seed}"], 0.8)
    table = compare(find_runs([str(sweep.dir)]))
    assert winner(sweep) == [run.dir.name for run in table.rows[0].group.chosen] == ["5", "6", "7", "8", "9"]
    assert len(rank(sweep, sweep.objectives[0])) == 2
    assert "has val/acc of 1 of 5 seeds" in " ".join(notes(table))

    # A group with more seeds in another sweep takes nothing from those that had one in theirs
    search = Sweep(sweep.dir.with_name("search"))
    search.dir.mkdir()
    search.update(objectives=[{"metric": "val/acc", "mode": "max"}])
    put(search, ["optimizer.lr=1e-2", "seed=0"], 0.8)
    put(search, ["optimizer.lr=3e-2", "seed=0"], 0.9)
    both = compare(find_runs([str(sweep.dir), str(search.dir)]))
    assert [run.dir for run in both.rows[0].group.runs] == [search.job(1).dir]


@pytest.mark.parametrize(
    ("mode", "scores", "line"),
    [
        ("max", [0.98426], ">= 0.9842"),
        ("max", [0.98419], ">= 0.9841"),
        ("min", [0.98424], "<= 0.9843"),
        ("min", [-1.23456], "<= -1.234"),
        ("max", [12345.6], ">= 1.234E+4"),
        ("max", [0.1, 0.2, 0.3], ">= 0.2"),
        ("min", [0.7, 0.1, 0.1], "<= 0.3"),
        ("max", [1.0], ">= 1"),
    ],
)
def test_the_winner_keeps_the_promise_of_its_own_file(
    mode: str, scores: list[float], line: str, sweep: Sweep, tmp_path: Path
) -> None:
    sweep.update(objectives=[{"metric": "val/acc", "mode": mode}])
    runs = [put(sweep, [f"seed={seed}"], score) for seed, score in enumerate(scores, start=3)]
    path = write_best(sweep)
    assert path is not None
    copied = shutil.copy(path, tmp_path / "kept.yaml")
    experiment = Experiment.read(copied)
    assert [*experiment.seeds] == [run.seed for run in runs]
    assert float(line.split()[1]) == pytest.approx(experiment.expectations[0].bound)
    row, kept = summarize("kept", experiment, [run.metrics for run in runs], [1.0])
    assert kept, row
    assert sweep.dir.name in experiment.source
    assert "# time:     12 s" in path.read_text()


def test_the_winner_of_a_search_is_tested_by_the_command_that_it_ends_with(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    runs = [put(sweep, ["model=mlp", "test=false", f"seed={seed}"], 0.9) for seed in (0, 1)]
    path = write_best(sweep)
    assert path is not None
    assert "test:" not in OmegaConf.to_yaml(OmegaConf.load(path)), "trained again, it is tested"
    for run in runs:
        assert f"python scripts/evaluate.py run={run.dir}" in caplog.text


def test_who_breaks_a_constraint_does_not_win(sweep: Sweep) -> None:
    sweep.update(hydra={"sweeper": {"constraints": ["cost/epochs <= 3"]}})
    put(sweep, ["seed=0"], 0.9, epochs=4)
    put(sweep, ["seed=0", "optimizer.lr=1e-2"], 0.8, epochs=3)
    assert winner(sweep) == ["1"]


@pytest.mark.parametrize(
    "words",
    [
        ["model=mlp", "optimizer.lr=3e-2", "model.hidden_sizes=[8,4]"],
        ["sweep=lenet", "model.width=2", "scheduler=none"],  # its file chooses data and model
        ["experiment=blobs_mlp", "optimizer=sgd", "seed=3"],
        ["~callbacks.throughput", "logger=[tensorboard,csv]", "+optimizer.amsgrad=true", "debug=fast"],
    ],
    ids=" ".join,
)
def test_the_file_makes_the_winner_s_config(words: list[str], sweep: Sweep, caplog: pytest.LogCaptureFixture) -> None:
    run = put(sweep, words, 0.9)
    path = write_best(sweep)
    assert path is not None
    assert "another config" not in caplog.text
    [word] = [word for word in path.read_text().split() if word.startswith("experiment=")]
    configs: Any = (OmegaConf.to_container(config, resolve=False) for config in (compose([word]), run.saved))
    made, then = configs
    for key, value in then.items():
        if key in ("paths", "sweep", "resume", "test"):  # trained again, it is tested
            continue
        if key == "callbacks":
            value = {"throughput": None} | value
        assert made[key] == value, key


def test_the_file_says_no_address_of_a_logger_which_no_file_may_say(sweep: Sweep) -> None:
    put(sweep, ["logger=mlflow", "logger.mlflow.tracking_uri=http://localhost:1"], 0.9)
    path = write_best(sweep)
    assert path is not None
    assert "mlflow" in path.read_text()
    assert "http" not in path.read_text()


def test_without_a_job_that_ended_there_is_no_winner(sweep: Sweep) -> None:
    put(sweep, ["seed=0"], 0.9, "pruned")
    assert write_best(sweep) is None
