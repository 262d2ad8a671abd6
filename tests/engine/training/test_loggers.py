"""Loggers go on with a resumed run, end with their run, and never mix two: read back from their files and servers."""

import contextlib
import csv
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml

from lab.engine.runs.resume import resumed_config
from lab.engine.runs.run import Run
from lab.engine.training import train as training
from lab.engine.training.build import build
from lab.engine.training.loggers import TensorBoardLogger, ended_with_run
from lab.engine.training.train import train
from lab.engine.utils.errors import Preempted
from lab.engine.utils.paths import ROOT
from tests.conftest import SMALL, Compose, run_script

TINY = [*SMALL, "data.batch_size=50", "trainer=cpu", "trainer.max_epochs=3", "trainer.log_every_n_steps=4"]
MLP, GAN = ["model=mlp"], ["model=gan", "callbacks.generative_metrics=null", "objective=null"]
OFFLINE = {  # nothing is sent, and nothing asked of the network
    **{"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_X_DISABLE_STATS": "1"},
    **{"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


def test_no_thread_of_tensorboard_stays_with_a_run(tmp_path: Path) -> None:
    """A sweep in one process would collect one for each job."""
    for status in (None, RuntimeError, Preempted):
        logger = TensorBoardLogger(str(tmp_path / str(status)))
        with contextlib.suppress(RuntimeError, Preempted), ended_with_run([logger]):
            logger.log_metrics({"loss": 1.0}, 0)
            logger.finalize("success")  # as Lightning does after the fit
            logger.log_final_metrics({"loss": 1.0})
            if status is not None:
                raise status(15)
    assert not [one for one in threading.enumerate() if type(one).__module__.startswith("tensorboard")]


@pytest.fixture
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb"))
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)


class Crash(pl.Callback):
    """Fails in the second epoch, when some of it is logged."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 8:
            raise ConnectionError("the machine is gone")


def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "build", lambda config, **options: build(config, [Crash()], **options))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if "per_second" not in name} for row in found]


@pytest.mark.slow
@pytest.mark.parametrize("model", [MLP, GAN], ids=["mlp", "gan"])
def test_a_resumed_run_goes_on_in_its_csv_file(
    model: list[str], cfg: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, *model, "logger=csv"]
    straight, crashed = tmp_path / "straight", tmp_path / "crashed"
    for folder in (straight, crashed):
        folder.mkdir()
    train(cfg(*words, f"paths.run_dir={straight}"))
    with monkeypatch.context() as patch:
        crashing(patch)
        with pytest.raises(ConnectionError):
            train(cfg(*words, f"paths.run_dir={crashed}"))
    before = rows(crashed / "csv" / "metrics.csv")
    assert max(int(row["step"]) for row in before) > 10, "it had logged more than its checkpoint holds"
    with (crashed / "csv" / "metrics.csv").open("a") as file:
        file.write("9,1")  # a kill has torn this line
    train(resumed_config(cfg(f"resume='{crashed}'")))
    assert rows(crashed / "csv" / "metrics.csv") == rows(straight / "csv" / "metrics.csv")
    assert [path.name for path in crashed.glob("csv*")] == ["csv"]
    assert {path.name for path in (crashed / "csv").iterdir()} == {"metrics.csv", "hparams.yaml"}


@pytest.mark.parametrize("ends", ["it crashes", "it is not trained"])
def test_the_hyperparameters_are_there_however_a_run_ends(
    ends: str, cfg: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ends == "it crashes":
        crashing(monkeypatch)
        with pytest.raises(ConnectionError):
            train(cfg(*TINY, *MLP, "logger=csv", "seed=7"))
    else:
        train(cfg(*TINY, *MLP, "logger=csv", "seed=7", "fit=false"))
    logged = yaml.safe_load((tmp_path / "run" / "csv" / "hparams.yaml").read_text())
    assert logged["seed"] == 7
    assert logged["optimizer"]["lr"] > 0


def test_several_loggers_and_a_foreign_one_stand_beside_each_other(cfg: Compose, tmp_path: Path) -> None:
    mine = "{_target_: pytorch_lightning.loggers.CSVLogger, save_dir: '${paths.run_dir}', name: mine, version: a}"
    train(cfg(*TINY, *MLP, "logger=[tensorboard,csv]", f"+logger.mine={mine}"))
    run = tmp_path / "run"
    assert list((run / "tensorboard").glob("events.*"))
    assert rows(run / "mine" / "a" / "metrics.csv") == rows(run / "csv" / "metrics.csv")


@pytest.mark.parametrize(
    ("error", "status"), [(None, "completed"), (Preempted(15), "preempted"), (OSError("disk full"), "failed")]
)
def test_a_logger_is_told_how_its_run_ended(error: BaseException | None, status: str) -> None:
    told = []

    class Mine(pl.loggers.CSVLogger):
        def end_run(self, status: str) -> None:
            told.append(status)
            if error is not None:
                raise ConnectionError("no server")  # must not hide the first error

    with contextlib.ExitStack() as stack:
        if error is not None:
            stack.enter_context(pytest.raises(type(error)))
        with ended_with_run([pl.loggers.CSVLogger("unused"), Mine("unused")]):
            if error is not None:
                raise error
    assert told == [status]


# W&B, offline


@pytest.fixture
def wandb(_offline: None) -> Iterator[Any]:
    yield (module := pytest.importorskip("wandb"))
    module.teardown()  # its process


def wandb_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """What the files of W&B hold of each run, by id: LevelDB's log format, of which each record is a protobuf."""
    record_type: Any = import_module("wandb.proto.wandb_internal_pb2").Record
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("offline-run-*/run-*.wandb"), key=lambda path: path.parent.name):
        data, at, parts, records = path.read_bytes(), 7, b"", []
        assert data[:4] == b":W&B"
        while at + 7 < len(data):
            if (left := 32768 - at % 32768) < 7:  # the rest of a block
                at += left
                continue
            _, size, kind = struct.unpack("<IHB", data[at : at + 7])
            parts += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4) and at <= len(data):  # whole, or the last of several parts
                records.append(record_type.FromString(parts))
                parts = b""
        name = path.stem.removeprefix("run-")
        assert {record.run.run_id for record in records if record.HasField("run")} <= {name}
        run = found.setdefault(name, {"files": 0, "hparams": {}, "steps": [], "final": {}, "status": []})
        run["files"] += 1
        for record in records:
            kind = record.WhichOneof("record_type")
            for config in (record.run.config, record.config):
                run["hparams"] |= {item.key: json.loads(item.value_json) for item in config.update if item.key}
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            if "val/loss" in row:
                run["steps"].append(row["trainer/global_step"])
            run["final"] |= {item.key: json.loads(item.value_json) for item in record.summary.update}
            if kind in ("exit", "preempting"):
                run["status"].append(("FINISHED", "FAILED")[record.exit.exit_code] if kind == "exit" else "KILLED")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("owner", ["lab.engine.training", "pytorch_lightning"])
def test_jobs_of_one_process_have_wandb_runs_of_their_own(
    owner: str, cfg: Compose, tmp_path: Path, wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, *MLP, "logger=wandb", f"logger.wandb._target_={owner}.loggers.WandbLogger"]
    configs = [cfg(*words, f"paths.run_dir={tmp_path}/{name}", f"seed={name}") for name in range(2)]
    for name, config in enumerate(configs):
        (tmp_path / str(name)).mkdir()
        with monkeypatch.context() as patch, contextlib.suppress(ConnectionError):
            if name == 0:
                crashing(patch)
            train(config)
        assert wandb.run is None
    train(resumed_config(cfg(f"resume='{tmp_path}/0'")))
    found = wandb_runs(tmp_path)
    ids = [Run(tmp_path / name).config.logger.wandb.id for name in "01"]
    assert sorted(found) == sorted(ids)
    crashed, other = (found[run] for run in ids)
    assert (crashed["files"], crashed["status"], crashed["hparams"]["seed"]) == (2, ["FAILED", "FINISHED"], 0)
    assert (other["files"], other["status"], other["hparams"]["seed"]) == (1, ["FINISHED"], 1)
    assert crashed["steps"] == other["steps"] == [9, 19, 29]
    if owner.startswith("lab"):
        metrics = Run(tmp_path / "1").metrics
        assert {name: other["final"][name] for name in metrics} == pytest.approx(metrics)


def test_a_run_ends_the_wandb_run_of_anyones_code_but_none_that_was_open_before(wandb: Any) -> None:
    with ended_with_run([]):
        wandb.init()
    assert wandb.run is None
    notebooks = wandb.init()
    with ended_with_run([]):
        pass
    assert (wandb.run is notebooks) is True
    notebooks.finish()


# Both, by the command line


def asked(url: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def mlflow_server(_offline: None, tmp_path: Path) -> Iterator[str]:
    """The address of a server of MLflow."""
    pytest.importorskip("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/kept"]
    with (tmp_path / "server.txt").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words, "--port", str(port), "--workers", "1"],
            stdout=out, stderr=subprocess.STDOUT, cwd=tmp_path, start_new_session=True,
        )  # fmt: skip
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def mlflow_runs(address: str) -> dict[str, dict[str, Any]]:
    """What the server knows of each run, by the id that the run saved."""
    api = f"{address}/api/2.0/mlflow"
    experiment = asked(f"{api}/experiments/get-by-name?experiment_name=lab")["experiment"]["experiment_id"]
    found = {}
    for run in asked(f"{api}/runs/search", experiment_ids=[experiment], max_results=1000)["runs"]:
        tags, params = ({pair["key"]: pair["value"] for pair in run["data"][kind]} for kind in ("tags", "params"))
        last = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
        history = asked(f"{api}/metrics/get-history?run_id={run['info']['run_id']}&metric_key=val/loss")["metrics"]
        assert tags["lab_run"] not in found
        found[tags["lab_run"]] = {
            "hparams": params, "status": [run["info"]["status"]],
            "steps": sorted(int(metric["step"]) for metric in history),
            "final": {name.removeprefix("final/"): value for name, value in last.items() if "final/" in name},
        }  # fmt: skip
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_runs_of_sweeps_have_ids_of_their_own_and_resumed_ones_go_on(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, data_dir: Path
) -> None:
    found: Callable[[], dict[str, dict[str, Any]]]
    if name == "wandb":
        request.getfixturevalue(name)
        found, words, address = lambda: wandb_runs(tmp_path), ["logger=wandb"], []
    else:
        server = request.getfixturevalue("mlflow_server")
        address = [f"logger.mlflow.tracking_uri={server}"]  # which no file may say: typed each time
        found, words = lambda: mlflow_runs(server), ["logger=mlflow", *address]
    paths = [f"paths.log_dir={tmp_path}/logs", f"paths.data_dir={data_dir}"]
    words = [*words, *paths, *MLP, *SMALL, "data.batch_size=50", "trainer=cpu"]
    long = [*words, "trainer.max_epochs=300"]

    def command(*words: str) -> None:
        done = run_script("src/train.py", *words)
        assert done.returncode == 0, done.stderr

    def stopped(signum: int, pattern: str, *words: str) -> Run:
        """The run that this command was at when it was stopped, after its first checkpoint."""
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "src" / "train.py"), *words],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not (checkpoints := [*tmp_path.glob(f"logs/{pattern}/checkpoints/last.ckpt")]):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signum)
        process.wait(timeout=60)
        return Run(checkpoints[0].parent.parent)

    # two sweeps of the same settings
    for _ in range(2):
        command("-m", *words, "trainer.max_epochs=1", "seed=range(10)")
    jobs = [Run(path.parent) for path in tmp_path.glob("logs/sweeps/*/*/*/run.json")]
    runs = found()
    assert len(jobs) == len(runs) == 20
    for job in jobs:
        run = runs[job.config.logger[name].id]
        assert int(run["hparams"]["seed"]) == job.config.seed
        assert (run["status"], run["steps"]) == (["FINISHED"], [9])
        assert {key: run["final"][key] for key in job.metrics} == pytest.approx(job.metrics)

    single = stopped(signal.SIGTERM, "runs/*/*", *long)
    assert single.status == "preempted"
    of_single = single.config.logger[name].id
    assert found()[of_single]["status"] == {"wandb": ["KILLED", "FAILED"], "mlflow": ["KILLED"]}[name]
    epochs = found()[of_single]["steps"]
    command(f"resume={single.dir}", f"trainer.max_epochs={len(epochs) + 2}", *address)
    resumed = found()[of_single]
    assert resumed["status"][-1] == "FINISHED"
    assert resumed["steps"] == [*epochs, epochs[-1] + 10, epochs[-1] + 20]

    epochs_each = ["trainer.max_epochs=40", "seed=0,1", "sweep.name=mine"]
    killed = stopped(signal.SIGKILL, "sweeps/*/*-mine-*/1", "-m", *words, *epochs_each)
    assert killed.status == "running"
    command(f"sweep.resume={killed.dir.parent}", f"logger={name}", *address)
    for job in (Run(killed.dir.with_name("0")), killed):
        run = found()[job.config.logger[name].id]
        assert (job.status, run["status"][-1]) == ("completed", "FINISHED")
        assert int(run["hparams"]["seed"]) == job.config.seed
        steps, expected = {*run["steps"]}, [*range(9, 400, 10)]
        if name == "wandb" and job is killed:  # W&B writes in blocks, and a kill loses the last
            assert expected[-1] in steps
            assert steps <= {*expected}
        else:
            assert sorted(steps) == expected
    assert len(found()) == 23
