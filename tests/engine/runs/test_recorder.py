"""A directory belongs to the first run that begins in it; a second start changes nothing there."""

import fcntl
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lab.engine.cli.arguments import hydra_arguments
from lab.engine.config.compose import compose
from lab.engine.runs.recorder import Recorder
from lab.engine.utils.errors import UserError
from lab.engine.utils.formats import FORMAT
from tests.conftest import SMALL, Command, accepted, refusal, run_script
from tests.recorded import record


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_run_that_ended_since_the_command_was_checked_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = record(tmp_path / "0", metrics={"val/acc": 0.5})
    before = files(run)
    composed = compose(["seed=7"], hydra=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.masked_copy(composed, "hydra"))
    with pytest.raises(UserError, match=f"{run} holds a run already: resume it"), Recorder(run).recording(composed):
        pytest.fail("a second run has begun")
    assert files(run) == before


@pytest.mark.slow
def test_a_second_start_in_a_directory_that_is_trained_in_changes_nothing(
    train_command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text("seed: 1 # of the first, which is about to write run.json\n")
    before = files(run)
    with (run / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        answer = train_command(*SMALL, "model=mlp", "seed=2", "trainer.max_epochs=1", f"hydra.run.dir={run}")
    assert answer.returncode == 2, answer.stderr
    assert "is being trained in" in answer.stderr
    assert files(run) == before


def test_resume_auto_begins_anew_where_nothing_was_saved_yet(tmp_path: Path) -> None:
    run = record(tmp_path / "0", status="running", format=FORMAT)
    words = ["resume=auto", f"hydra.run.dir={run}", *SMALL]
    assert hydra_arguments(words, {}) == [*words[1:], "resume=auto"]
    accepted(*words)


@pytest.mark.slow
def test_resume_auto_has_nothing_to_do_for_a_run_that_has_ended(runs: dict[str, Path], data_dir: Path) -> None:
    run = runs["digits"]
    words = [*SMALL, "model=lenet", "trainer.max_epochs=1", "trainer=cpu", "logger=none", f"paths.data_dir={data_dir}"]
    words += [f"paths.log_dir={run.parent}", "resume=auto", f"hydra.run.dir={run}"]
    before = files(run)
    answer = run_script("src/train.py", *words)
    assert answer.returncode == 0, answer.stderr
    assert f"{run} has completed: nothing is left to do" in answer.stdout
    log = f"{run}/train.log"
    assert files(run) | {log: b""} == before | {log: b""}
    assert "seed was 0 in this run, and would be 5" in refusal(*words, "seed=5")
    assert f"resume={run} trains it for longer" in refusal(*words, "trainer.max_epochs=2")
