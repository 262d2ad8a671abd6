"""Code that nobody here wrote, by config alone: trained, killed, resumed, evaluated, predicted, swept, compared."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from lab.engine.checkpointing.files import read_checkpoint
from tests.engine.training.test_foreign import BORING, checkout, metrics, run, start, write

PAIRS = {
    "boring": ["model=boring", "data=boring", "trainer.max_epochs=30"],
    "own": ["model=net", "data=rows", "trainer.max_epochs=4"],
}
SPEED = {"cost/seconds", "train/samples_per_second"}

__all__ = ["checkout"]  # the fixture


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_a_foreign_pair_goes_all_the_way(pair: str, checkout: Path, tmp_path: Path) -> None:
    write(checkout / "configs", BORING)
    words = [*PAIRS[pair], "trainer=cpu"]
    straight, killed = ([*words, f"paths.log_dir={tmp_path / name}"] for name in ("straight", "killed"))
    run(checkout, "src/train.py", *straight)
    process = start(checkout, "src/train.py", *killed, *(["model.pause=0.05"] if pair == "own" else []))
    last, deadline = tmp_path / "killed" / "latest" / "checkpoints" / "last.ckpt", time.monotonic() + 60
    while not last.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    full, resumed = (tmp_path / name / "latest" for name in ("straight", "killed"))
    assert 0 < read_checkpoint(last)["global_step"] < read_checkpoint(full / "checkpoints" / "last.ckpt")["global_step"]
    assert "resuming from" in run(checkout, "src/train.py", "resume=latest", f"paths.log_dir={tmp_path}/killed")
    one, other = (read_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (full, resumed))
    assert all(torch.equal(other[key], value) for key, value in one.items())
    expected, found = metrics(full), metrics(resumed)
    assert {name for name in expected if expected[name] != found[name]} <= SPEED

    assert "test" in run(checkout, "scripts/evaluate.py", f"run={full.resolve()}")
    run(checkout, "scripts/predict.py", f"run={full.resolve()}", "in=test", f"out={tmp_path}/predicted.csv")
    assert len((tmp_path / "predicted.csv").read_text().splitlines()) == 65  # a row for each sample, and the names
    run(checkout, "src/train.py", "-m", *words, "seed=0,1", f"paths.log_dir={tmp_path}/swept")
    compared = run(checkout, "scripts/compare.py", f"{tmp_path}/swept/sweeps", f"out={tmp_path}/report")
    assert "2" in compared
    table = (tmp_path / "report" / "table.csv").read_text().splitlines()
    assert len(table) == 2, "two seeds are one group"
