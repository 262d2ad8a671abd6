"""Sweeps over code that nobody here wrote: seeds without an objective, a grid and a search for a metric of its own."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from lab.engine.sweeps.sweep import Sweep
from tests.engine.training.test_foreign import BORING, checkout, metrics, run, write

__all__ = ["checkout"]  # the fixture
QUICK = ["model=net", "trainer=cpu", "trainer.max_epochs=4", "logger=none"]
COUNTED = '''
"""Rows whose test data is counted each time that it is asked for."""

from pathlib import Path

from mine.net import Rows


class Counted(Rows):
    def __init__(self, num_rows: int, counts: str) -> None:
        super().__init__(num_rows)
        self.counts = Path(counts)

    def test_dataloader(self):
        with self.counts.open("a") as file:
            file.write("asked\\n")
        return super().test_dataloader()
'''
SEARCH = {
    "data/counted.yaml": """
        # @package _global_
        data: {_target_: mine.counted.Counted, num_rows: 64, counts: "???"}
    """,
}


def swept(folder: Path) -> Sweep:
    return Sweep.open("latest", folder)


@pytest.mark.slow
def test_seeds_of_lightnings_demo_without_an_objective(checkout: Path, tmp_path: Path) -> None:
    write(checkout / "configs", BORING)
    words = ["model=boring", "data=boring", "objective=null", "trainer=cpu", "trainer.max_epochs=1", "logger=none"]
    said = run(checkout, "src/train.py", "-m", *words, "seed=0,1", f"paths.log_dir={tmp_path}")
    assert "no winner: the model's config names no objective" in said
    sweep = swept(tmp_path)
    assert (sweep.status, [job.status for job in sweep.jobs.values()]) == ("completed", ["completed"] * 2)
    first, second = (metrics(job.dir) for job in sweep.jobs.values())
    assert first["train/loss"] != second["train/loss"]
    table = run(checkout, "scripts/compare.py", str(sweep.dir))
    assert "Sorted by train/loss, lower is better" in table


@pytest.mark.slow
def test_a_grid_over_a_foreign_metric_leaves_a_winner_that_can_be_reproduced(checkout: Path, tmp_path: Path) -> None:
    grid = ["model.lr=0.0001,0.03", "seed=0,1"]
    said = run(checkout, "src/train.py", "-m", *QUICK, "data=rows", *grid, f"paths.log_dir={tmp_path}/logs")
    sweep = swept(tmp_path / "logs")
    losses = [metrics(job.dir)["val_loss"] for job in sweep.jobs.values()]
    assert sum(losses[2:]) < sum(losses[:2])
    assert "best: job 2, 3, val_loss" in said
    table = run(checkout, "scripts/compare.py", str(sweep.dir), f"out={tmp_path}/report")
    assert "lower is better" in table
    rows = (tmp_path / "report" / "table.csv").read_text().splitlines()
    assert rows[1].startswith("lr=0.03,"), "the table has the same winner"
    assert all("test_loss" in metrics(job.dir) for job in sweep.jobs.values()), "a comparison tests each"

    kept = checkout / "configs" / "experiment" / "kept.yaml"
    shutil.copy(sweep.dir / "best.yaml", kept)
    row = run(checkout, "scripts/reproduce.py", "kept", "--set", f"paths.log_dir={tmp_path}/again")
    assert re.search(r"\| `experiment=kept` \| val_loss [\d.e-]+ ± [\d.e-]+ \| <= [\d.]+ \| 2 \|", row), row
    again = [metrics(path.parent)["val_loss"] for path in (tmp_path / "again").rglob("metrics.json")]
    assert sorted(again) == sorted(losses[2:]), "those seeds, to the bit"


@pytest.mark.slow
def test_a_search_for_a_foreign_metric_never_asks_for_test_data(checkout: Path, tmp_path: Path) -> None:
    write(checkout / "configs", SEARCH)
    write(checkout / "src" / "mine", {"counted.py": COUNTED})
    counts = tmp_path / "counts.txt"
    search = ["hydra/sweeper=optuna", "model.lr=tag(log,interval(1e-4,1e-1))", "hydra.sweeper.n_trials=3"]
    search += [
        'hydra.sweeper.constraints=["val_loss <= 100"]',
        "hydra.sweeper.seeds=[0,1]",
        "hydra/sweeper/pruner=none",
    ]
    words = ["-m", *QUICK, "data=counted", f"data.counts={counts}", *search, f"paths.log_dir={tmp_path}/logs"]
    said = run(checkout, "src/train.py", *words)
    sweep = swept(tmp_path / "logs")
    assert [job.status for job in sweep.jobs.values()] == ["completed"] * 6
    assert not counts.exists(), "no job of a search touches the test set"
    commands = re.findall(r"test it: python (\S+) (.+)", said)
    assert len(commands) == 2, "one for each of the winner's seeds"
    best = min(range(0, 6, 2), key=lambda n: sum(metrics(sweep.job(i).dir)["val_loss"] for i in (n, n + 1)))
    for (script, words_), number in zip(commands, (best, best + 1), strict=True):
        assert shlex.split(words_) == [f"run={sweep.job(number).dir}"]
        run(checkout, script, *shlex.split(words_))
        [evaluation] = sweep.job(number).dir.glob("evaluation-*.json")
        assert json.loads(evaluation.read_text())["test_loss"] > 0
    assert counts.read_text().splitlines()
