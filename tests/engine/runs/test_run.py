"""Run directories: what they give back, and what is said of those that are damaged."""

import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch

from lab.engine.analysis.run_record import find_runs
from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.config.overrides import to_override
from lab.engine.inference.request import read_request
from lab.engine.runs.recorder import Recorder
from lab.engine.runs.resume import resumed_config
from lab.engine.runs.run import Run
from lab.engine.utils.errors import UserError
from tests.conftest import SMALL, Compose, refusal, run_script

TINY = [*SMALL, "trainer.max_epochs=2", "data.batch_size=50", "logger=none"]


@pytest.fixture(scope="session")
def logs(runs: dict[str, Path]) -> Path:
    """Two completed runs: an MLP's and, after it, a LeNet's."""
    return runs["pair/mlp"].parent


@pytest.fixture
def run(logs: Path, tmp_path: Path) -> Run:
    """A copy of the MLP's run, as if it had been killed: what a test damages."""
    [found] = Run.list(logs, model="mlp")
    shutil.copytree(found.dir, tmp_path / "copy")
    (tmp_path / "copy" / "run.json").write_text(json.dumps(found.metadata | {"status": "running"}))
    return Run(tmp_path / "copy")


def refused(run: Run, *words: str) -> str:
    """What is said to who would go on with a run; nothing in it is changed."""
    before = {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()}
    answer = refusal(f"resume={run.dir}", f"paths.log_dir={run.dir.parent}", *words)
    assert {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()} == before
    return answer


def resume(run: Run, *words: str) -> tuple[int, str]:
    done = run_script("src/train.py", f"resume={run.dir}", f"paths.log_dir={run.dir.parent}", *words, timeout=120)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_run_says_what_it_is(tmp_path: Path) -> None:
    described = Run(tmp_path / "a<b")
    (described.dir / ".hydra").mkdir(parents=True)
    (described.dir / ".hydra" / "config.yaml").write_text("objective: {metric: val/acc, mode: max}\n")
    started = datetime.now().astimezone() - timedelta(hours=2, minutes=30)
    described.write("run.json", {"status": "running", "started": started.isoformat(timespec="seconds")})
    for text in ("running", "val/acc not known yet", "2 h", "a<b"):
        assert text in str(described)
    described.write("metrics.json", {"val/acc": 0.98426, "val/loss": 0.1})
    described.write("run.json", {"status": "completed", "started": (started - timedelta(days=3)).isoformat()})
    assert str(described).splitlines() == [
        "status     completed", "objective  val/acc 0.9843", "age        3 days", f"directory  {described.dir}",
    ]  # fmt: skip
    html = described._repr_html_()
    for cell in ("completed", "val/acc 0.9843", "3 days", f"{tmp_path}/a&lt;b"):
        assert f"<td>{cell}</td>" in html
    (described.dir / ".hydra" / "config.yaml").write_text("objective: null\n")
    assert "objective  none" in str(described)


@pytest.mark.slow
def test_runs_are_listed_newest_first(logs: Path) -> None:
    assert [run.choice("model") for run in Run.list(logs)] == ["lenet", "mlp"]
    assert [run.choice("model") for run in Run.list(logs, model="mlp", status="completed")] == ["mlp"]
    assert Run.list(logs, status="failed") == []
    with pytest.raises(UserError, match="modle: no such config group; did you mean model"):
        Run.list(logs, modle="mlp")
    assert Run.list(logs)[0] == Run.open("latest", logs)


def test_a_run_gives_its_model_and_its_data(logs: Path) -> None:
    run = Run.open("latest", logs)
    model, data = run.model(), run.datamodule()
    assert not model.training
    data.prepare_data()
    data.setup("test")
    images, labels = next(iter(data.test_dataloader()))
    with torch.no_grad():
        hits = model(images).argmax(1) == labels
    assert 0 <= hits.float().mean().item() <= 1
    last = read_checkpoint(run.checkpoint("last"))["state_dict"]
    for name, value in run.model("last").state_dict().items():
        assert torch.equal(value, last[name])


def test_scripts_look_for_latest_where_they_are_told(logs: Path) -> None:
    latest = Run.open("latest", logs)
    assert read_request(["run=latest", f"paths.log_dir={logs}"]).run == latest
    assert [found.dir for found in find_runs(["latest"], logs)] == [latest.dir]


def test_a_completed_run_is_not_trained_on_by_accident(logs: Path) -> None:
    [run] = Run.list(logs, model="mlp")
    said = refused(run)
    assert "has completed" in said
    assert "trainer.max_epochs=" in said
    refused(run, "trainer.max_epochs=1")


@pytest.mark.slow
def test_a_completed_run_goes_on_for_longer(run: Run) -> None:
    record = run.metadata | {"status": "completed"}
    (run.dir / "run.json").write_text(json.dumps(record))
    status, said = resume(run, "trainer.max_epochs=4")
    assert status == 0, said
    assert "epoch 3/4" in said
    assert "epoch 2/" not in said
    assert run.config.trainer.max_epochs == 4
    assert read_checkpoint(run.checkpoint("last"))["epoch"] == 4
    assert [words for words in run.overrides if words.startswith("trainer.max_epochs")] == ["trainer.max_epochs=4"]
    assert run.metadata["started"] == record["started"]


def test_no_checkpoint(run: Run) -> None:
    shutil.rmtree(run.dir / "checkpoints")
    said = refused(run)
    assert "no checkpoint to go on from" in said
    assert "begin a new run" in said


@pytest.mark.slow
def test_a_truncated_last_checkpoint_falls_back_to_the_newest_that_is_whole(run: Run) -> None:
    last, best = run.dir / "checkpoints" / "last.ckpt", run.dir / "checkpoints" / "best.ckpt"
    content = last.read_bytes()
    last.unlink()
    last.write_bytes(content[: len(content) // 2])
    assert run.newest_checkpoint() == best
    status, said = resume(run, "trainer.max_epochs=3")
    assert status == 0, said
    assert "last.ckpt: no complete checkpoint" in said
    assert "resuming from best.ckpt" in said
    assert "epoch 3/3" in said


def test_every_checkpoint_truncated(run: Run) -> None:
    for path in (run.dir / "checkpoints").iterdir():
        path.unlink()
        path.write_bytes(b"PK")
    said = refused(run)
    assert "best.ckpt: no complete checkpoint" in said
    assert "last.ckpt: no complete checkpoint" in said


@pytest.mark.slow
def test_a_checkpoint_of_another_model(run: Run, logs: Path) -> None:
    [other] = Run.list(logs, model="lenet")
    shutil.copy(other.checkpoint("last"), run.dir / "checkpoints" / "last.ckpt")
    status, said = resume(run)
    assert status == 2
    assert "is no checkpoint of this run's MLP" in said
    with pytest.raises(UserError, match="holds no MLP"):
        run.model("last")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.hidden_sizes=[5]"], "model.hidden_sizes was [64, 128, 64] in this run, and would be [5]"),
        (["model=lenet"], "model._target_ was lab.models.mlp.MLP"),
        (["data.seed=5"], "data.seed was 0"),
        (["optimizer.lr=1"], "optimizer.lr was 0.005"),
        (["seed=7"], "seed was 0 in this run, and would be 7"),
        (["scheduler=cosine"], "scheduler"),
        (["modle=mlp"], "did you mean model?"),
    ],
)
def test_what_would_change_the_training_is_refused(words: list[str], said: str, run: Run) -> None:
    assert said in refused(run, *words)


@pytest.mark.slow
def test_the_config_files_of_today_do_not_reach_a_run_of_yesterday(run: Run) -> None:
    saved = run.dir / ".hydra" / "config.yaml"
    saved.write_text(saved.read_text().replace("weight_decay: 0.01", "weight_decay: 0.123"))
    assert run.config.optimizer.weight_decay == 0.123
    status, said = resume(run, "trainer.max_epochs=3")
    assert status == 0, said
    [state] = read_checkpoint(run.checkpoint("last"))["optimizer_states"]
    assert state["param_groups"][0]["weight_decay"] == 0.01, "what the optimizer had saved stays"
    assert run.config.optimizer.weight_decay == 0.123


def test_a_run_that_is_at_work_is_left_alone(run: Run) -> None:
    with Recorder(run.dir).locked():
        status, said = resume(run)
    assert status == 2
    assert f"by process {run.metadata['pid']}" in said


def test_a_directory_that_holds_a_run_is_not_written_over(run: Run) -> None:
    before = {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()}
    assert f"resume={run.dir}" in refusal(*TINY, "model=mlp", f"hydra.run.dir={run.dir}")
    assert {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_leftovers_of_a_killed_writer_are_swept_up(run: Run) -> None:
    leftover = run.dir / "checkpoints" / ".last.ckpt.123.part"
    leftover.write_bytes(b"half")
    os.utime(leftover, (1, 1))
    status, said = resume(run, "trainer.max_epochs=3")
    assert status == 0, said
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit=false"], "fit=false leaves nothing to go on with"),
        (["callbacks=ema"], "callbacks.ema._target_ was None"),
        (["trainer.accumulate_grad_batches=4"], "trainer.accumulate_grad_batches was 1"),
        (["trainer.precision=bf16-mixed"], "trainer.precision was 32-true"),
    ],
)
def test_more_that_is_refused(words: list[str], said: str, run: Run) -> None:
    assert said in refused(run, *words)


@pytest.mark.parametrize(
    ("overrides", "longer"),
    [
        (["trainer.max_epochs=3"], True),
        (["trainer.max_epochs=1"], False),
        (["trainer.max_steps=1"], False),
        (["trainer.max_epochs=-1"], True),
        (["trainer.max_epochs=3", "trainer.max_time=00:00:01:00"], False),
        (["trainer.max_time={minutes:1}"], False),
        (["callbacks=early_stopping"], True),
    ],
    ids=str,
)
def test_longer_is_what_takes_longer(overrides: list[str], longer: bool, run: Run, cfg: Compose) -> None:
    (run.dir / "run.json").write_text(json.dumps(run.metadata | {"status": "completed"}))
    given = cfg(f"resume={run.dir}", f"changes={to_override(overrides)}")
    if longer:
        resumed_config(given)
    else:
        with pytest.raises(UserError, match="has completed"):
            resumed_config(given)


@pytest.mark.slow
def test_a_group_chosen_anew_brings_all_that_it_says(run: Run) -> None:
    status, said = resume(run, "trainer.max_epochs=3", "callbacks=none", "logger=none")
    assert status == 0, said
    assert not any((run.config.callbacks or {}).values())
    assert run.config.trainer.enable_checkpointing is False
    assert not list(run.dir.rglob("*=*.ckpt")), "nor does Lightning keep checkpoints of its own"


@pytest.mark.slow
def test_an_end_that_is_past_is_refused(run: Run) -> None:
    status, said = resume(run, "trainer.max_epochs=1")
    assert status == 2
    assert "trainer.max_epochs=1: the run has come to 2 already" in said
