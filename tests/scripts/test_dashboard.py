"""The dashboard of a study, served for real."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lab.engine.sweeps.study import open_study
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.paths import ROOT
from tests.conftest import run_script
from tests.scripts.test_makefile import listening

optuna = pytest.importorskip("optuna", reason="needs pip install -e .[optuna]")
pytest.importorskip("optuna_dashboard", reason="needs pip install -e .[optuna]")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A sweep of one trial, which nobody has trained."""
    directory = tmp_path / "sweeps" / "today" / "study"
    directory.mkdir(parents=True)
    sweep = Sweep(directory)
    objective = {"metric": "val/acc", "mode": "max"}
    sweep.update(sweeper="optuna", started="now", objectives=[objective], hydra={"sweeper": {"storage": None}})
    study = open_study(directory, ["max"])
    study.add_trial(optuna.trial.create_trial(value=0.5))
    return sweep


@pytest.mark.slow
def test_the_dashboard_shows_the_study_to_this_machine_alone(sweep: Sweep, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [f"paths.log_dir={tmp_path}", f"port={port}"]
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "dashboard.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}/" in server.stdout.readline()
        assert [study["study_name"] for study in _ask(port)["study_summaries"]] == [sweep.dir.name]
        assert listening(server.pid) == {"0100007F"}
    finally:
        server.terminate()
        server.communicate(timeout=20)


def _ask(port: int) -> dict[str, list[dict[str, str]]]:
    over = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=10) as answer:
                return dict(json.load(answer))
        except OSError:
            assert time.monotonic() < over, "it does not answer"
            time.sleep(0.2)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["port=0"], "port=0: expected a number"), (["sweep=nope"], "is no sweep"), (["pork=1"], "no such argument")],
)
def test_a_wrong_word_is_answered(words: list[str], said: str, sweep: Sweep, tmp_path: Path) -> None:
    answer = run_script("scripts/dashboard.py", *words, f"paths.log_dir={tmp_path}", timeout=60)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
