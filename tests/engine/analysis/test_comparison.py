"""The table: which runs are one group, what is computed over them, and what is refused."""

import csv
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from compare import main
from scipy import stats  # type: ignore[import-untyped]

from lab.engine.analysis.comparison import Comparison, compare
from lab.engine.analysis.groups import group_runs
from lab.engine.analysis.run_record import RunRecord, find_runs
from lab.engine.analysis.statistics import holm, summarise
from lab.engine.analysis.table import markdown, notes
from lab.engine.utils.errors import UserError
from tests.conftest import run_script
from tests.recorded import record

FIGURES = {
    "model=lenet optimizer.lr=0.01": [0.91, 0.93, 0.92, 0.95],
    "model=lenet optimizer.lr=0.001": [0.90, 0.905, 0.93, 0.92],
    "model=mlp optimizer.lr=0.01": [0.85, 0.89, 0.83, 0.88],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three groups of four seeds, each run a job of one folder."""
    number = 0
    for words, values in FIGURES.items():
        for seed, value in enumerate(values):
            metrics = {"val/acc": value, "test/acc": value - 0.01, "train/loss": 1 - value, "cost/seconds": 9.0 + seed}
            record(tmp_path / "runs" / str(number), *words.split(), f"seed={seed}", metrics=metrics)
            number += 1
    return tmp_path / "runs"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def compared(folder: Path, **options: Any) -> Comparison:
    return compare(find_runs([str(folder)]), **options)


def test_the_table_equals_what_scipy_computes_from_the_runs(folder: Path, tmp_path: Path) -> None:
    main([str(folder), "baseline=lenet 0.001", f"out={tmp_path / 'out'}"])
    runs = rows(tmp_path / "out" / "runs.csv")
    table = rows(tmp_path / "out" / "table.csv")
    assert len(runs) == 12
    assert [row["group"] for row in table] == ["model=lenet lr=0.01", "model=lenet lr=0.001", "model=mlp lr=0.01"]
    by_group = {row["group"]: {r["seed"]: r for r in runs if r["group"] == row["group"]} for row in table}
    base = by_group["model=lenet lr=0.001"]
    ps = []
    for row in table:
        group = by_group[row["group"]]
        for metric in ("val/acc", "test/acc", "train/loss"):
            values = [float(run[metric]) for run in group.values()]
            low, high = stats.t.interval(0.95, len(values) - 1, statistics.mean(values), stats.sem(values))
            found = [float(row[f"{metric} {what}"]) for what in ("n", "mean", "sd", "low", "high")]
            assert found == pytest.approx([4, statistics.mean(values), statistics.stdev(values), low, high])
        if group is not base:
            test = stats.ttest_rel(
                [float(group[s]["val/acc"]) for s in base], [float(run["val/acc"]) for run in base.values()]
            )
            assert float(row["p"]) == pytest.approx(test.pvalue)
            assert int(row["pairs"]) == 4
            ps.append(float(row["p"]))
        assert float(row["cost/seconds"]) == pytest.approx(10.5)
    adjusted = [float(row["p holm"]) for row in table if row["p holm"]]
    assert adjusted == pytest.approx([min(1, p * (2 if p == min(ps) else 1)) for p in ps])


@pytest.mark.parametrize(("columns", "shown"), [(60, 5), (100, 7), (200, 9)])
def test_the_terminal_shows_as_many_columns_as_fit(
    columns: int, shown: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    main([str(folder)])
    out = capsys.readouterr().out
    names = ["group", "runs", "val/acc", "sd", "95 % interval", "test/acc", "sd", "95 % interval", "seconds"]
    assert out.splitlines()[2].split() == " ".join(names[:shown]).split()
    assert max(map(len, out.partition("Sorted")[0].splitlines())) <= max(columns, 70)
    assert ("A wider terminal shows more columns" in out) == (shown < len(names))


def test_holm_keeps_the_order_and_ends_at_one() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm's method by hand
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_measurement_has_no_interval_and_nan_stays_nan() -> None:
    assert summarise([0.5]) == type(summarise([]))(1, 0.5)
    assert summarise([]).mean is None
    found = summarise([0.5, math.nan])
    assert found.n == 2
    assert math.isnan(found.mean or 0.0)


def test_groups_are_named_by_what_was_typed_and_by_what_it_takes(tmp_path: Path) -> None:
    """Models have different keys, a choice that is the default is not typed, and one key was never varied."""
    for i, words in enumerate(
        [
            ["optimizer.lr=0.01", "trainer.max_epochs=3"],
            ["model=mlp", "optimizer.lr=0.01", "model.hidden_sizes=[8]", "trainer.max_epochs=3"],
            ["model=mlp", "optimizer.lr=0.01", "model.hidden_sizes=[16,4]", "trainer.max_epochs=3"],
            ["optimizer=sgd", "optimizer.lr=0.01", "trainer.max_epochs=3"],
            ["scheduler=none", "optimizer.lr=0.01", "trainer.max_epochs=3"],
        ]
    ):
        record(tmp_path / str(i), *words, metrics={"val/acc": 0.5})
    names = [group.name for group in group_runs(find_runs([str(tmp_path)]))]
    assert names == [
        "model=lenet optimizer=adamw scheduler=onecycle",
        "model=mlp hidden_sizes=[8] optimizer=adamw scheduler=onecycle",
        "model=mlp hidden_sizes=[16,4] optimizer=adamw scheduler=onecycle",
        "model=lenet optimizer=sgd scheduler=onecycle",
        "model=lenet optimizer=adamw scheduler=none",
    ]


def test_what_makes_no_other_result_makes_no_other_group(tmp_path: Path) -> None:
    record(tmp_path / "a", "seed=0", metrics={"val/acc": 0.5})
    record(tmp_path / "b", "seed=1", "paths.log_dir=/elsewhere", "logger=csv", "callbacks.progress.interval=1.0")
    record(tmp_path / "c", "seed=1", "trainer.max_epochs=2")
    groups = group_runs(find_runs([str(tmp_path)]))
    assert [[run.dir.name for run in group.runs] for group in groups] == [["a", "b"], ["c"]]


def test_untyped_differences_name_groups_where_nothing_else_does(tmp_path: Path) -> None:
    for name, momentum in (("a", 0.9), ("b", 0.8)):
        run = record(tmp_path / name, metrics={"val/acc": 0.5})
        config = run / ".hydra" / "config.yaml"
        config.write_text(config.read_text().replace("lr: 0.005", f"lr: 0.005\n  momentum: {momentum}"))
    assert [group.name for group in group_runs(find_runs([str(tmp_path)]))] == ["momentum=0.9", "momentum=0.8"]


def test_unfinished_runs_are_counted_and_are_in_no_mean(tmp_path: Path) -> None:
    record(tmp_path / "0", "optimizer.lr=1.0", "seed=0", metrics={"val/acc": 0.8})
    record(tmp_path / "1", "optimizer.lr=1.0", "seed=1", status="pruned", metrics={"val/acc": 0.1})
    record(tmp_path / "2", "optimizer.lr=1.0", "seed=2", status="failed")
    record(tmp_path / "3", "optimizer.lr=2.0", "seed=0", status="pruned", metrics={"val/acc": 0.9})
    record(tmp_path / "4", "optimizer.lr=3.0", "seed=0", status="running")
    found = compared(tmp_path)
    first, second, third = found.rows
    assert found.statuses == {"completed": 1, "pruned": 2, "running": 1, "failed": 1}
    assert [first.values[status] for status in found.statuses] == [1, 1, 0, 1]
    assert (first.values["val/acc n"], first.values["val/acc mean"]) == (1, 0.8)
    assert (second.values["val/acc n"], second.values["val/acc so far"]) == (0, 0.9)
    assert third.group.name == "lr=3"


def test_of_a_seed_that_ran_twice_the_last_to_complete_counts(tmp_path: Path) -> None:
    for number, (seed, value, status) in enumerate(
        [(0, 0.5, "completed"), (0, 0.7, "completed"), (0, 0.9, "failed"), (1, 0.6, "completed")]
    ):
        record(tmp_path / f"0{number}", f"seed={seed}", status=status, metrics={"val/acc": value})
    [group] = compared(tmp_path).groups
    assert group.values("val/acc") == {0: 0.7, 1: 0.6}
    assert group.repeated == 1
    assert group.name == "lenet on digits"


def test_a_figure_that_is_not_finite_puts_its_group_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (rate, value) in enumerate([(1.0, 0.4), (2.0, math.nan), (1.0, 0.5), (2.0, 0.9)]):
        record(tmp_path / f"{number}", f"optimizer.lr={rate}", f"seed={number // 2}", metrics={"val/acc": value})
    main([str(tmp_path), "baseline=lr=1"])
    out = capsys.readouterr().out
    assert out.index("lr=1") < out.index("lr=2")
    assert "Not finite in" in out
    assert "a figure is not finite" in out


@pytest.mark.parametrize(
    ("seeds", "figures", "why"),
    [
        ([5, 6], [0.5, 0.6], "no seed in common"),
        ([0, 6], [0.5, 0.6], "one seed in common"),
        ([0, 1], [0.5, 0.6], "every pair differs by the same"),
    ],
)
def test_it_says_where_there_is_too_little_to_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seeds: list[int], figures: list[float], why: str
) -> None:
    for seed, value in enumerate([0.4, 0.5]):
        record(tmp_path / f"{seed}", "optimizer.lr=1.0", f"seed={seed}", metrics={"val/acc": value})
    for seed, value in zip(seeds, figures, strict=True):
        record(tmp_path / f"1{seed}", "optimizer.lr=2.0", f"seed={seed}", metrics={"val/acc": value})
    main([str(tmp_path), "baseline=1"])
    assert f"Not tested, 1 of 1 rows: {why}" in capsys.readouterr().out


def test_a_sweep_is_judged_by_its_own_objectives(tmp_path: Path) -> None:
    for number, size in enumerate([100.0, 50.0]):
        metrics = {"val/acc": 0.5 + number, "cost/parameters": size, "val/f1": 1.0 - number}
        record(tmp_path / f"{number}", f"optimizer.lr={number + 1}.0", metrics=metrics)
    objectives = [{"metric": "val/f1", "mode": "max"}, {"metric": "cost/parameters", "mode": "min"}]
    (tmp_path / "sweep.json").write_text(json.dumps({"name": "two", "status": "running", "objectives": objectives}))
    found = compared(tmp_path)
    assert found.objectives == [("val/f1", "max"), ("cost/parameters", "min")]
    assert [row.group.name for row in found.rows] == ["lr=1", "lr=2"]
    assert [row.group.name for row in compared(tmp_path, metric="val/acc").rows] == ["lr=2", "lr=1"]
    assert [row.group.name for row in compared(tmp_path, metric="val/acc", mode="min").rows] == ["lr=1", "lr=2"]
    assert [row.group.name for row in compared(tmp_path, metric="cost/parameters").rows] == ["lr=2", "lr=1"]


def test_the_direction_is_that_of_any_run_s_objective_or_is_asked_for(tmp_path: Path) -> None:
    for number, value in enumerate([0.5, 0.7]):
        metrics = {"val_f1": value, "test_thing": value, "val/acc": value, "test/modes": value, "val_other": value}
        record(tmp_path / f"{number}", f"optimizer.lr={number + 1}.0", metrics=metrics)
    record(tmp_path / "2", "objective.metric=val_thing", metrics={"val_thing": 0.1})  # the rarest, and known by it
    for metric in ("val_f1", "test/modes", "test_thing"):
        assert compared(tmp_path, metric=metric).rows[0].group.runs[0].dir.name == "1", metric
    with pytest.raises(UserError, match=r"metric=val_other: .*mode=max"):
        main([str(tmp_path), "metric=val_other"])
    assert compared(tmp_path, metric="val_other", mode="max").rows[0].group.runs[0].dir.name == "1"
    assert compared(tmp_path, metric="val_other", mode="min").rows[0].group.runs[0].dir.name == "0"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "share one split of the data (data.seed=0)"),
        (["data.seed=3"], "share one split of the data (data.seed=3)"),
        (["data.seed=${seed}"], "Each seed has a split of the data of its own"),
    ],
)
def test_it_says_beside_the_intervals_whether_the_split_is_in_them(words: list[str], said: str, tmp_path: Path) -> None:
    record(tmp_path / "0", *words, "seed=0", metrics={"val/acc": 0.4})
    assert not any("split of the data" in note for note in notes(compared(tmp_path))), "no interval"
    record(tmp_path / "1", *words, "seed=1", metrics={"val/acc": 0.5})
    found = compared(tmp_path)
    assert len(found.groups) == 1
    assert said in " ".join(notes(found))
    assert ("'data.seed=${seed}'" in markdown(found)) == ("share" in said), "and in each of the tables"


def test_runs_of_different_tasks_are_shown_with_what_they_have(tmp_path: Path) -> None:
    record(tmp_path / "0", "model=lenet", metrics={"val/acc": 0.5})
    record(tmp_path / "1", "model=mlp", metrics={"val/acc": 0.6})
    record(tmp_path / "2", "model=gpt", "data=recall", metrics={"val/loss": 0.1})
    names = [row.group.name for row in compared(tmp_path).rows]
    assert names == ["model=mlp data=digits", "model=lenet data=digits", "model=gpt data=recall"]


def test_latest_is_what_ran_last_and_no_word_is_the_newest_sweep(tmp_path: Path) -> None:
    alone = record(tmp_path / "runs" / "2026-11-22" / "12-run", metrics={"val/acc": 0.5})
    old = record(tmp_path / "sweeps" / "2026-11-21" / "11-old" / "0", metrics={"val/acc": 0.5})
    new = record(tmp_path / "sweeps" / "2026-11-22" / "10-new" / "0", metrics={"val/acc": 0.5}).parent
    record(new / "1", "seed=1")
    (tmp_path / "latest").symlink_to("runs/2026-11-22/12-run")
    assert [run.dir for run in find_runs([], tmp_path)] == [new / "0", new / "1"]
    assert [run.dir for run in find_runs(["latest"], tmp_path)] == [alone]
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to(new / "1")
    assert [run.dir for run in find_runs(["latest"], tmp_path)] == [new / "0", new / "1"]
    assert len(find_runs([str(tmp_path), str(old), str(tmp_path / "latest")])) == 4, "each once"


def test_two_runs_differ_in_config_code_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git = {"commit": "a" * 40, "branch": "main", "dirty": True}
    versions = {"torch": "2.15.0", "numpy": "2.4.6"}
    first = record(tmp_path / "a", "seed=0", metrics={"val/acc": 0.5, "val/f1": 0.25}, git=git, versions=versions)
    second = record(
        tmp_path / "b",
        "seed=1",
        "model=mlp",
        metrics={"val/acc": 0.75},
        git=git | {"commit": "b" * 40},
        versions=versions | {"torch": "2.11.0"},
    )
    (second / "code.patch").write_text("diff --git a/src/x.py b/src/x.py\n+1\n")
    main(["diff", str(first), str(second)])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "seed 0 1",
        "model._target_ lab.models.lenet.LeNet lab.models.mlp.MLP",
        "model.activation absent relu",
        f"commit {'a' * 12} {'b' * 12}",
        "src/x.py as committed changed",
        "torch 2.15.0 2.11.0",
        "val/acc 0.5 0.75 +0.25",
        "val/f1 0.25",
    ):
        assert line in lines, line
    assert not any(line.startswith(("numpy", "paths")) for line in lines)
    main(["diff", str(first), str(first)])
    assert "agree in everything" in capsys.readouterr().out


BAD: dict[str, tuple[list[str], str]] = {
    "no directory": (["{folder}x"], "no such directory; did you mean"),
    "nothing inside": (["{empty}"], "holds no run"),
    "no argument": (["{folder}", "basline=x"], "basline: no such argument; did you mean baseline?"),
    "no value": (["{folder}", "metric="], "metric=: give a value"),
    "no metric": (["{folder}", "metric=val/ac"], "no run has it; did you mean val/acc?"),
    "no mode": (["{folder}", "mode=highest"], "mode=highest: expected min or max"),
    "no baseline": (["{folder}", "baseline=model=lenet lr=0.02"], "no such group; did you mean model=lenet lr=0.01?"),
    "two baselines": (["{folder}", "baseline=lenet"], "2 groups are called so"),
    "a file": (["{folder}", "out={file}"], "is a file: give a folder"),
    "in a file": (["{folder}", "out={file}/deep"], "cannot be made: Not a directory"),
    "one run": (["diff", "{folder}/0"], "diff takes two run directories, and was given 1"),
    "many runs": (["diff", "{folder}", "{folder}/0"], "12 runs are there"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_words(case: str, folder: Path, tmp_path: Path) -> None:
    words, answer = BAD[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    places = {"folder": folder, "empty": tmp_path / "empty", "file": tmp_path / "file"}
    with pytest.raises(UserError) as refused:
        main([word.format(**places) for word in words])
    assert answer in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 10


@pytest.mark.parametrize(
    ("name", "content", "answer"),
    [
        ("metrics.json", '{"val/acc": 0.', "is damaged"),
        ("metrics.json", '{"val/acc": "high"}', "val/acc is 'high'"),
        ("metrics.json", "[1]", "it is [1]"),
        ("run.json", "{", "is damaged"),
        (".hydra/config.yaml", "a: [", "is damaged"),
        (".hydra/overrides.yaml", "a: 1", "it is {'a': 1}"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, content: str, answer: str) -> None:
    (folder / "3" / name).write_text(content)
    with pytest.raises(UserError) as refused:
        main([str(folder / "3")])
    assert str(folder / "3" / name) in str(refused.value)
    assert answer in str(refused.value)


def test_nothing_finished_is_said_with_what_there_is(tmp_path: Path) -> None:
    record(tmp_path / "0", status="running")
    record(tmp_path / "1", "seed=1", status="failed")
    with pytest.raises(UserError, match=r"no run has finished: 2 found, 1 running, 1 failed"):
        main([str(tmp_path)])


def test_the_command_imports_neither_torch_nor_lightning_and_answers_in_lines(folder: Path, tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import sys\nsys.path.insert(0, 'scripts')\nimport compare\n"
        f"compare.main([{str(folder)!r}, 'out={tmp_path / 'out'}'])\n"
        "print('heavy:', {'torch', 'pytorch_lightning', 'polars'} & set(sys.modules))\n"
    )
    done = run_script(str(probe))
    assert done.returncode == 0, done.stderr
    assert "heavy: set()" in done.stdout
    assert not done.stderr
    refused = run_script("scripts/compare.py", str(folder), "metric=nothing")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: metric=nothing: no run has it")
    assert "Traceback" not in refused.stderr


def test_tables_for_papers_hold_every_row_and_escape_what_they_must(tmp_path: Path) -> None:
    for number, name in enumerate(["a|b", "50%_&$"]):
        record(tmp_path / "runs" / f"{number}", f"+note={name}", metrics={"val/acc": 0.5 + number})
    main([str(tmp_path / "runs"), f"out={tmp_path}"])
    assert "| note=a\\|b | 1 |" in (tmp_path / "table.md").read_text()
    latex = (tmp_path / "table.tex").read_text()
    assert "note=50\\%\\_\\&\\$ & 1 &" in latex
    assert all(latex.count(rule) == 1 for rule in ("\\toprule", "\\midrule", "\\bottomrule"))


def test_a_run_of_an_older_version_is_read(tmp_path: Path) -> None:
    run = record(tmp_path / "0", metrics={"val/acc": 0.5})
    (run / "run.json").unlink()
    (run / ".hydra" / "overrides.yaml").unlink()
    assert RunRecord.read(run).status == "unknown"
