"""The slots of hydra/launcher=gpu_pool, and how jobs take them: real processes, of a script that is quick."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobStatus

from lab.engine.sweeps.device_slots import Slot, device_slots
from lab.engine.sweeps.pool import Pool, PoolJob
from lab.engine.utils import machine
from lab.engine.utils.errors import Preempted, RunFailed, UserError
from tests.conftest import run_script

# What a run leaves; ACTION comes before
LEAVE = """
import json, os, pathlib, time
here, began = pathlib.Path({directory!r}), time.monotonic()
exec({action!r})
(here / ".hydra").mkdir(exist_ok=True)
(here / ".hydra" / "config.yaml").write_text("objective: {{metric: val/acc, mode: max}}")
(here / "metrics.json").write_text('{{"val/acc": 0.5}}')
(here / "run.json").write_text('{{"status": "completed"}}')
told = dict(os.environ, cores=sorted(os.sched_getaffinity(0)), began=began, ended=time.monotonic())
(here / "told.json").write_text(json.dumps(told))
"""
WAIT = "time.sleep(0.5)"


def jobs(tmp_path: Path, *actions: str) -> list[PoolJob]:
    made = []
    for number, action in enumerate(actions):
        script = LEAVE.format(directory=str(tmp_path / str(number)), action=action)
        made.append(PoolJob([], tmp_path / str(number), [sys.executable, "-c", script]))
    return made


def told(tmp_path: Path, number: int) -> dict[str, Any]:
    return dict(json.loads((tmp_path / str(number) / "told.json").read_text()))


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four of them: how many there are is all that is pretended."""
    monkeypatch.setattr(machine, "count_gpus", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def shown(slots: Sequence[Slot]) -> list[str]:
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots]


@pytest.mark.usefixtures("four_gpus")
def test_places_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(device_slots()) == ["0", "1", "2", "3"]
    assert shown(device_slots(jobs_per_device=2, devices=[1, 3])) == ["1", "1", "3", "3"]
    assert shown(device_slots(devices_per_job=2)) == ["0,1", "2,3"]
    assert shown(device_slots(devices_per_job=3)) == ["0,1,2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5ab, 7,2,6")
    assert shown(device_slots(devices=[0, 2])) == ["GPU-5ab", "2"]
    with pytest.raises(UserError, match=r"\(0 to 3\), not 4"):
        device_slots(devices=[0, 4])
    with pytest.raises(UserError, match="devices_per_job=5: there are 4 GPUs here"):
        device_slots(devices_per_job=5)


@pytest.mark.usefixtures("four_gpus")
def test_without_gpus_cores_are_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 3, 5, 7, 8})
    for slots in (
        device_slots(devices=[], cores_per_job=2),
        device_slots(devices=[], cores_per_job=2, jobs_per_device=1),
    ):
        assert [list(slot.cores) for slot in slots] == [[2, 3], [5, 7]]
        assert [slot.environment for slot in slots] == [{"OMP_NUM_THREADS": "2"}] * 2
    monkeypatch.setattr(machine, "count_gpus", lambda: 0)
    assert len(device_slots(jobs_per_device=2)) == 10
    with pytest.raises(UserError, match=r"\(none; leave it out for the cores\), not 0"):
        device_slots(devices=[0])
    with pytest.raises(UserError, match="cores_per_job=6: there are 5 cores here"):
        device_slots(cores_per_job=6)


def test_each_job_is_shown_its_place_and_nothing_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "29500")
    core = min(os.sched_getaffinity(0))
    slots = [Slot("a", {"CUDA_VISIBLE_DEVICES": "GPU-5ab"}), Slot("b", {"OMP_NUM_THREADS": "1"}, [core])]
    done = Pool(slots).run(jobs(tmp_path, *[WAIT] * 5))
    assert [(one.status, one.return_value) for one in done] == [(JobStatus.COMPLETED, 0.5)] * 5
    every = [told(tmp_path, number) for number in range(5)]
    assert [every[0]["CUDA_VISIBLE_DEVICES"], every[1]["cores"]] == ["GPU-5ab", [core]]
    assert all("MASTER_PORT" not in one for one in every)
    spans = [(one["began"], one["ended"]) for one in every]
    together = [sum(began <= start < ended for began, ended in spans) for start, _ in spans]
    assert max(together) == 2


def test_a_job_that_dies_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    kill = "os.kill(os.getpid(), 9)"
    done = Pool([Slot("a", {})]).run(jobs(tmp_path, "1 / 0", kill, "print('error: no rank'); raise SystemExit(2)", ""))
    assert [one.status for one in done] == [
        JobStatus.FAILED,
        JobStatus.UNKNOWN,  # the sweeper starts it again
        JobStatus.FAILED,
        JobStatus.COMPLETED,
    ]
    for one, cause in ((done[0], "ZeroDivisionError: division by zero"), (done[2], "no rank")):
        with pytest.raises(RunFailed, match=cause):
            _ = one.return_value


def test_a_signal_is_handed_on_and_waited_for(tmp_path: Path) -> None:
    leave = (
        "import signal, sys; signal.signal(15, lambda *_: (time.sleep(0.3), (here / 'saved').touch(), sys.exit(143)))"
    )
    actions = [f"{leave}; (here / 'ready').touch(); time.sleep(60)"] * 2
    pool, given = Pool([Slot("a", {})]), jobs(tmp_path, *actions)

    def stop() -> None:
        while not (tmp_path / "0" / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Preempted) as stopped:
        pool.run(given)
    thread.join()
    assert stopped.value.code == 143
    assert (tmp_path / "0" / "saved").exists()
    assert not (tmp_path / "1").exists(), "none is begun any more"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra/launcher=gpu_pool", "hydra.launcher.devices=[99]"], "hydra.launcher.devices: expected a list"),
        (["hydra/launcher=gpu_pool", "hydra.launcher.jobs_per_device=0"], "from 1"),
        (["hydra/launcher=gpu_pool", "hydra.launcher.devices=0"], "hydra.launcher.devices"),
        (["hydra/launcher=gpu_pool", "hydra.launcher.cores_per_job=0", "hydra.launcher.devices=[]"], "from 1"),
    ],
)
def test_a_wrong_launcher_is_answered(words: list[str], said: str, tmp_path: Path) -> None:
    done = run_script("src/train.py", "-m", *words, "seed=0,1", f"paths.log_dir={tmp_path}/logs", timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 10
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "logs").exists()
