"""Every launcher runs sweeps: each job in its directory, each rank with its job's words, nothing lost, nothing left."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.paths import ROOT
from tests.conftest import SMALL
from tests.processes import begin

QUIET = ["callbacks.progress=null", "callbacks.summary=null", "trainer.enable_progress_bar=false"]
QUICK = [*SMALL, *QUIET, "model=mlp", "logger=none", "trainer.max_epochs=1"]
LONG = [*QUICK, "data.batch_size=10", "trainer.max_epochs=60"]
SECRET = secrets.token_hex(12)
LAUNCHERS = ["joblib", "submitit_local", "gpu_pool"]


def the_sweep(tmp_path: Path) -> Sweep:
    return Sweep.open("latest", tmp_path / "logs")


def sweep(tmp_path: Path, data_dir: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """Begins a sweep in which every process that trains is listened to."""
    (tmp_path / "seen").mkdir(exist_ok=True)
    places = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "witness")])
    witness = {"PYTHONPATH": places, "WITNESS": str(tmp_path / "seen"), "PYTHONWARNINGS": "default"}
    return begin(tmp_path, data_dir, "-m", *words, **(witness | environment))


def await_sweep(tmp_path: Path, process: "subprocess.Popen[str]", seconds: float = 280) -> int:
    """The exit status, once no process of the sweep is left."""
    over = time.monotonic() + seconds
    try:
        status = process.wait(timeout=seconds)
        while left := processes(tmp_path):
            assert time.monotonic() < over, f"still there: {left}"
            time.sleep(0.1)
        return status
    finally:
        for number in [*processes(tmp_path), *([process.pid] if process.poll() is None else [])]:
            os.kill(number, signal.SIGKILL)
        process.wait()


def processes(tmp_path: Path) -> dict[int, str]:
    """Command lines of the processes whose environment names this test, by number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"WITNESS={tmp_path}/seen".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode().replace("\0", " ")
        except (OSError, UnicodeDecodeError):
            continue
    return found


def seen(tmp_path: Path) -> list[dict[str, Any]]:
    """What each process that trained was told, by job and rank."""
    return [json.loads(path.read_text()) for path in sorted((tmp_path / "seen").glob("*.json"))]


def await_checkpoint(
    tmp_path: Path, process: "subprocess.Popen[str]", number: int, seconds: float = 120
) -> dict[str, Any]:
    """Until a job has saved the end of an epoch; what its `run.json` says."""
    over = time.monotonic() + seconds
    while not list((tmp_path / "logs").glob(f"sweeps/*/*/{number}/checkpoints/last.ckpt")):
        assert process.poll() is None, (tmp_path / "err").read_text()
        assert time.monotonic() < over, "it does not get on"
        time.sleep(0.05)
    return dict(the_sweep(tmp_path).job(number).metadata)


def assert_four_jobs(tmp_path: Path) -> None:
    """Two seeds with two learning rates each, and every process was told what its directory says."""
    jobs = the_sweep(tmp_path).jobs
    wanted = [(0, 1e-3), (0, 1e-2), (1, 1e-3), (1, 1e-2)]
    assert list(jobs) == [0, 1, 2, 3]
    assert [run.status for run in jobs.values()] == ["completed"] * 4
    assert [(run.config.seed, run.config.optimizer.lr) for run in jobs.values()] == wanted
    assert [(int(one["job"]), one["seed"], one["lr"]) for one in seen(tmp_path)] == [
        (number, *values) for number, values in enumerate(wanted)
    ]
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".ckpt":
            assert SECRET.encode() not in path.read_bytes(), path


FOUR = [*QUICK, "seed=0,1", "optimizer.lr=1e-3,1e-2", "+paths.note=${oc.env:LAB_TOKEN}"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_four_jobs(launcher: str, tmp_path: Path, data_dir: Path) -> None:
    process = sweep(tmp_path, data_dir, *FOUR, f"hydra/launcher={launcher}", LAB_TOKEN=SECRET)
    assert await_sweep(tmp_path, process) == 0, (tmp_path / "err").read_text()
    assert_four_jobs(tmp_path)
    told = (tmp_path / "out").read_text() + (tmp_path / "err").read_text()
    assert "Warning" not in told
    assert "aunching" not in told, "the sweeper tells of the jobs"


@pytest.fixture(scope="module")
def ray_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python in an environment of its own, with the extra `ray`, and beside it what this one has."""
    folder = tmp_path_factory.mktemp("ray")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["ray"]
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *extra]
    try:
        subprocess.run(pip, check=True, timeout=400, capture_output=True)
    except subprocess.SubprocessError as error:
        pytest.skip(f"the extra `ray` cannot be installed here: {error}")
    [site] = folder.glob("lib/python*/site-packages")
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "beside.pth").write_text(here)
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_jobs_of_ray(ray_python: Path, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(ray_python))
    folder = tmp_path.parent.parent / "r"  # sockets are there, whose names must be short
    words = [*FOUR, "hydra/launcher=ray", f"+hydra.launcher.ray.init._temp_dir={folder}"]
    process = sweep(tmp_path, data_dir, *words, LAB_TOKEN=SECRET, HOME=str(tmp_path))
    assert await_sweep(tmp_path, process) == 0, (tmp_path / "err").read_text()
    assert_four_jobs(tmp_path)
    assert "Warning" not in (tmp_path / "err").read_text()


OWN = """# @package _global_
defaults:
  - override /model: wide
width: 24
optimizer:
  lr: 1e-2
"""
WIDE = """# @package _global_
model:
  _target_: lab.models.mlp.MLP
  in_features: ${dims.features}
  num_classes: ${dims.classes}
  hidden_sizes: ["${width}"]
objective: {metric: val/acc, mode: max}
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", *LAUNCHERS])
def test_jobs_of_two_ranks_with_configs_from_elsewhere(launcher: str, tmp_path: Path, data_dir: Path) -> None:
    for name, text in (("experiment/mine", OWN), ("model/wide", WIDE)):
        file = tmp_path / "own" / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    words = ["--config-dir", f"{tmp_path}/own", *SMALL, *QUIET, "experiment=mine", "trainer=ddp_cpu", "logger=csv"]
    words += ["trainer.max_epochs=1", "seed=3", "width=8,16", f"hydra/launcher={launcher}"]
    assert await_sweep(tmp_path, sweep(tmp_path, data_dir, *words)) == 0, (tmp_path / "err").read_text()
    found = the_sweep(tmp_path)
    assert sorted(path.name for path in found.dir.iterdir() if path.is_dir() and path.name != ".submitit") == ["0", "1"]
    for number, width in ((0, 8), (1, 16)):
        run = found.job(number)
        assert (run.status, run.metadata["devices"], run.metadata["seed"]) == ("completed", "2 x cpu", 3)
        assert (run.config.model.hidden_sizes, run.config.optimizer.lr) == ([width], 1e-2)
        assert next(iter(run.read_checkpoint("last")["state_dict"].values())).shape == (width, 784)
        assert {"seed=3", f"width={width}"} <= set(run.overrides)
    for name in ("config.yaml", "run.json", "metrics.json", "metrics.csv"):
        assert len(list(found.dir.rglob(name))) == 2, name
    told = seen(tmp_path)
    assert [(one["job"], one["rank"], one["seed"], one["lr"]) for one in told] == [
        (str(job), rank, 3, 1e-2) for job in (0, 1) for rank in (0, 1)
    ]
    assert len({one["port"] for one in told if one["rank"] == 1}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["gpu_pool", "joblib"])
def test_a_job_that_is_killed_goes_on(launcher: str, tmp_path: Path, data_dir: Path) -> None:
    process = sweep(tmp_path, data_dir, *LONG, "seed=0,1,2,3", f"hydra/launcher={launcher}")
    killed = await_checkpoint(tmp_path, process, 1)
    os.kill(killed["pid"], signal.SIGKILL)
    assert await_sweep(tmp_path, process) == 0, (tmp_path / "err").read_text()
    jobs = the_sweep(tmp_path).jobs
    assert [run.status for run in jobs.values()] == ["completed"] * 4
    assert len(jobs[1].metadata["resumed"]) == 1
    if launcher == "gpu_pool":  # the others have not noticed
        assert [len(jobs[number].metadata.get("resumed", [])) for number in (0, 2, 3)] == [0, 0, 0]
        assert "job 1 failed after" in (tmp_path / "out").read_text()
        assert "killed by SIGKILL" in (tmp_path / "out").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["gpu_pool", "joblib"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL], ids=["SIGINT", "SIGHUP", "SIGKILL"])
def test_jobs_end_with_their_sweep(signum: signal.Signals, launcher: str, tmp_path: Path, data_dir: Path) -> None:
    words = [f"hydra/launcher={launcher}", *(["hydra.launcher.n_jobs=2"] if launcher == "joblib" else [])]
    process = sweep(tmp_path, data_dir, *LONG, "trainer.max_epochs=2000", "seed=0,1,2", *words)
    await_checkpoint(tmp_path, process, 0)
    process.send_signal(signum)
    assert await_sweep(tmp_path, process, 40) == (-9 if signum == signal.SIGKILL else 128 + signum)
    found = the_sweep(tmp_path)
    assert found.job(0).status == "preempted"
    assert not found.job(2).metadata, "it had not begun"
    assert found.status == ("running" if signum == signal.SIGKILL else "preempted")
    assert "Traceback" not in (tmp_path / "err").read_text()


@pytest.mark.slow
def test_a_job_of_submitit_that_is_warned_goes_on(tmp_path: Path, data_dir: Path) -> None:
    process = sweep(tmp_path, data_dir, *LONG, "seed=choice(0)", "hydra/launcher=submitit_local")
    os.kill(await_checkpoint(tmp_path, process, 0)["pid"], signal.SIGUSR2)
    assert await_sweep(tmp_path, process) == 0, (tmp_path / "err").read_text()
    record = the_sweep(tmp_path).job(0).metadata
    assert record["status"] == "completed"
    assert len(record["resumed"]) == 1
