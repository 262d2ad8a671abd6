"""Directories and files with names that shells, Hydra and libraries take apart: every command reads them."""

from pathlib import Path

import pytest

from lab.engine.analysis.run_record import find_runs
from lab.engine.config.overrides import to_override
from lab.engine.runs.run import Run
from lab.engine.sweeps.sweep import Sweep
from tests.conftest import animals, run_script

ODD = "it's a=b, [1] größer"


def answered(script: str, *words: str) -> str:
    done = run_script(script, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_command_takes_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    path, logs = folder / f"{ODD}.csv", folder / "logs"
    path.write_text(animals(60))
    where = f"paths.log_dir={to_override(str(logs))}"
    words = ["data=csv", f"data.path={to_override(str(path))}", "data.target=kind", "model=mlp", "trainer=cpu"]
    words += [where, "trainer.max_epochs=1"]

    answered("src/train.py", *words)
    run = Run.open("latest", logs)
    assert run.status == "completed"
    for asked in ("resume=latest", f"resume={run.dir}"):
        epochs = run.config.trainer.max_epochs + 1
        assert "resuming from" in answered("src/train.py", asked, where, f"trainer.max_epochs={epochs}")
        assert run.config.trainer.max_epochs == epochs
    answered("scripts/evaluate.py", "run=latest", f"paths.log_dir={logs}")
    assert (run.dir / "evaluation-csv.json").is_file()
    written = answered("scripts/predict.py", f"run={run.dir}", f"in={path}", f"out={folder / 'out.csv'}")
    assert "60 rows written" in written

    answered("src/train.py", "-m", *words, "seed=0,1", "hydra/launcher=gpu_pool")
    sweep = Sweep.open("latest", logs)
    assert [job.status for job in sweep.jobs.values()] == ["completed", "completed"]
    assert "2 completed" in answered("src/train.py", f"sweep.resume={sweep.dir}")
    assert len(find_runs([str(sweep.dir), str(run.dir)])) == 3
    answered("scripts/compare.py", str(sweep.dir), str(run.dir), f"out={folder / 'report'}")
    assert (folder / "report" / "table.csv").is_file()
