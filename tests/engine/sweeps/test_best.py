"""Which job of a sweep wins, and the experiment file that it leaves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

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


def put(sweep: Sweep, words: Sequence[str], score: float | None, status: str = "completed", epochs: float = 1.0) -> Run:
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
    (run.dir / "run.json").write_text(json.dumps({"status": status}))
    metrics = {"cost/epochs": epochs} | ({} if score is None else {"val/acc": score})
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
        if key in ("paths", "sweep", "resume"):
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
