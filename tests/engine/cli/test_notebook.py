"""`lab.train` and `lab.compose` go the way of the command line, in this process and as often as one likes."""

import logging
import signal
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

import lab
from lab.engine.utils.errors import Preempted, RunFailed, UserError
from tests.conftest import GENERATED, refusal

BLOBS = ["model=mlp", "data=blobs", *GENERATED]
VARYING = {"cost/seconds", "train/samples_per_second"}


@pytest.fixture
def quick(tmp_path: Path, data_dir: Path) -> list[str]:
    """A run of a second, its paths under `tmp_path`."""
    paths = [f"paths.log_dir={tmp_path}/logs", f"paths.data_dir={data_dir}"]
    return [*BLOBS, *paths, "trainer=cpu", "trainer.max_epochs=1", "logger=none"]


def test_runs_follow_one_another(quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = [*root.handlers], root.level
    first, other, again = lab.train(quick), lab.train([*quick, "seed=1"]), lab.train(quick)
    assert len({first.dir, other.dir, again.dir}) == 3
    assert lab.Run.open("latest", tmp_path / "logs") == again
    assert lab.Run.list(tmp_path / "logs", status="completed", model="mlp", data="blobs")
    shown = capsys.readouterr().out
    for run in (first, other, again):
        log = (run.dir / "train.log").read_text()
        assert log.count("run directory: ") == 1, "each run writes to its own log"
        assert f"run directory: {run.dir}" in log
        assert f"run directory: {run.dir}" in shown
        assert 0 <= run.metrics["test/acc"] <= 1
    assert first.overrides == quick
    figures = [{name: x for name, x in run.metrics.items() if name not in VARYING} for run in (first, other, again)]
    assert figures[0] == figures[2] != figures[1], "a run does not depend on those before it"
    assert ([*root.handlers], root.level) == before
    assert not HydraConfig.initialized()

    longer = lab.train([f"resume={first.dir}", "trainer.max_epochs=2", f"paths.log_dir={tmp_path}/logs"])
    assert longer == first
    assert longer.metrics["cost/epochs"] == 2
    assert not longer.model().training


def test_a_composed_config_is_the_run_s(quick: list[str]) -> None:
    cfg = lab.compose([*quick, "optimizer.lr=0.5"])
    assert (cfg.optimizer.lr, cfg.model.in_features, cfg.objective.metric) == (0.5, 100, "val/acc")
    assert "hydra" not in cfg
    assert lab.compose().model._target_ == "lab.models.lenet.LeNet"


@pytest.mark.parametrize("overrides", [["model=mpl"], ["optimizer.lr=fast"], ["data=linear"], ["trainer.max_epoch=3"]])
def test_mistakes_are_those_of_the_command_line(overrides: list[str], quick: list[str], tmp_path: Path) -> None:
    said = refusal(*quick, *overrides)
    for function in (lab.train, lab.compose):
        with pytest.raises(UserError) as told:
            function([*quick, *overrides])
        assert str(told.value) == said
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["-m", "seed=1,2"], "-m: a notebook trains one run"),
        (["--cfg", "job"], "--cfg: a notebook trains one run"),
        (["hydra.mode=MULTIRUN"], "hydra.mode=MULTIRUN: a notebook trains one run"),
        (["seed=1,2"], "seed=1,2"),
        ("model=mlp data=blobs", r"\['model=mlp', 'data=blobs'\]"),
    ],
    ids=str,
)
def test_what_is_no_single_run_is_refused(overrides: list[str], named: str) -> None:
    for function in (lab.train, lab.compose):
        with pytest.raises(UserError, match=named):
            function(overrides)


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (RunFailed("the disk is full"), RunFailed),
        (OSError(28, "No space left on device", "best.ckpt"), RunFailed),
        (UserError("data.path"), UserError),
        (Preempted(signal.SIGINT), KeyboardInterrupt),
        (Preempted(signal.SIGTERM), Preempted),
        (ZeroDivisionError("by zero"), ZeroDivisionError),
    ],
    ids=lambda error: getattr(error, "__name__", repr(error)),
)
def test_errors_are_raised(
    raised: BaseException, seen: type[BaseException], quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(cfg: object) -> None:
        raise raised

    monkeypatch.setattr("lab.engine.training.train.train", fail)
    before = [*logging.getLogger().handlers]
    with pytest.raises(seen) as told:
        lab.train(quick)
    assert type(told.value) is seen
    assert [*logging.getLogger().handlers] == before
    logs = [path.read_text() for path in tmp_path.glob("logs/runs/*/*/train.log")]
    assert any("ZeroDivisionError: by zero" in log for log in logs) == (seen is ZeroDivisionError)


def test_a_secret_is_not_shown(quick: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "abc123secret")
    with pytest.raises(UserError) as told:
        lab.compose([*quick, "data.num_samples=abc123secret"])
    assert "abc123secret" not in str(told.value)
