"""What is said of published results, and the table that they make."""

from pathlib import Path

import pytest
import reproduce
from reproduce import END, HEADER, START, Expectation, Experiment, summarize, write

from lab.engine.utils.paths import CONFIGS, ROOT
from tests.conftest import choices


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_says_command_source_expectation_and_time(name: str) -> None:
    path = CONFIGS / "experiment" / f"{name}.yaml"
    experiment = Experiment.read(path)
    assert experiment.seeds in (range(1), range(5))
    text = path.read_text()
    assert f"# command:  python src/train.py experiment={name}\n" in text
    assert "\n# time:     " in text


def test_what_comes_first_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text(
        "import sys, pathlib\n"
        "pathlib.Path('words').open('a').write(' '.join(sys.argv[1:]))\n"
        "pathlib.Path('logs/digits').mkdir(parents=True)\n"
        "pathlib.Path('logs/digits/metrics.json').touch()\n"
    )
    experiment = Experiment.read(CONFIGS / "experiment" / "mnist_from_digits.yaml")
    experiment.prepare()
    experiment.prepare()
    assert (tmp_path / "words").read_text() == "experiment=digits_lenet data.augment=true hydra.run.dir=logs/digits"
    Experiment.read(CONFIGS / "experiment" / "digits_lenet.yaml").prepare()


def test_rows_hold_mean_spread_and_verdict() -> None:
    experiment = Experiment([Expectation("test/acc", ">=", 0.9), Expectation("test/loss", "<=", 1e-5)], "a book")
    metrics = [{"test/acc": 0.90, "test/loss": 1e-5}, {"test/acc": 0.92, "test/loss": 3e-5}]
    row, kept = summarize("foo", experiment, metrics, [10.0, 20.0])
    assert row == (
        "| `experiment=foo` | test/acc 0.9100 ± 0.0141, test/loss 2.0e-05 ± 1.4e-05 **missed** | >= 0.9, <= 1e-05 | 2 "
        "| 15 s | a book |"
    )
    assert not kept
    assert summarize("foo", experiment, metrics[:1], [10.0])[1]


def test_a_row_takes_the_place_of_the_old_one_and_leaves_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"above\n{START}\nold header\n| `experiment=a` | 1 |\n| `experiment=ab` | 2 |\n{END}\nbelow\n")
    write("a", "| `experiment=a` | 3 |", page)
    write("c", "| `experiment=c` | 4 |", page)
    rows = ["| `experiment=a` | 3 |", "| `experiment=ab` | 2 |", "| `experiment=c` | 4 |"]
    assert page.read_text() == "\n".join(["above", START, *HEADER, *rows, END, "below", ""])


def test_the_published_table_is_of_experiments_that_exist() -> None:
    table = (ROOT / "docs" / "results.md").read_text().partition(START)[2].partition(END)[0]
    named = {line.partition("=")[2].partition("`")[0] for line in table.splitlines() if "`experiment=" in line}
    assert named
    assert named <= set(choices("experiment"))


def test_a_header_without_a_promise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text("# source: nowhere\n")
    with pytest.raises(ValueError, match="expected: METRIC"):
        reproduce.Experiment.read(path)
