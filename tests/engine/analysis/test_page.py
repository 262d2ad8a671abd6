"""The page: its figures are those of the CSV files, and it opens without an error or a request."""

import csv
import json
import math
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from compare import main
from scipy import stats  # type: ignore[import-untyped]

from lab.engine.analysis.plots import plain
from lab.engine.utils.errors import UserError
from tests import chromium
from tests.conftest import SMALL, run_script
from tests.recorded import record

HOSTILE = "<script>console.error('broken out')</script></script><img src=http://localhost:9/x.png>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report over a sweep of twelve trials, of which four were pruned, and two more seeds of each of two."""
    folder = tmp_path_factory.mktemp("report")
    sweep = folder / "runs"
    for number in range(16):
        trial, seed = number % 12 if number < 14 else number - 14, number // 12 + number // 14
        rate, wide = 10 ** (-3 + trial / 6), trial % 3
        pruned = number < 12 and trial % 3 == 2
        height = 0.5 + trial / 40 + seed / 100
        epochs = 2 if pruned else 5
        curve = [height - 0.3 / (epoch + 1) for epoch in range(epochs)]
        words = [f"optimizer.lr={rate}", f"seed={seed}", f"+note={['plain', HOSTILE, '[x]'][wide]}"]
        record(
            sweep / str(number),
            *words,
            "trainer.max_epochs=5",
            status="pruned" if pruned else "completed",
            metrics={"val/acc": curve[-1], "cost/epochs": epochs, "cost/seconds": 1.0 + trial % 5},
            curves={"val/acc": curve, "train/loss": [1 - value for value in curve]},
        )
    (sweep / "sweep.json").write_text(
        json.dumps({"name": HOSTILE, "status": "completed", "objectives": [{"metric": "val/acc", "mode": "max"}]})
    )
    main([str(sweep), "baseline=lr=0.001", f"out={folder}"])
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def figures(page: Path) -> Any:
    [text] = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page.read_text())
    return json.loads(text)


def test_curves_and_bands_equal_what_the_csv_says(folder: Path) -> None:
    curves, table = rows(folder / "curves.csv"), rows(folder / "table.csv")
    for metric in ("val/acc", "train/loss"):
        traces = figures(folder / "report.html")[f"curve {metric}"]["data"]
        means = {trace["name"]: trace for trace in traces if "customdata" in trace}
        bands = {trace["name"]: trace for trace in traces if trace.get("fill") == "toself"}
        assert set(means) == {plain(row["group"]) for row in table}
        for row in table:
            points: dict[int, list[float]] = {}
            for point in curves:
                if (point["group"], point["metric"]) == (row["group"], metric):
                    points.setdefault(int(point["epoch"]), []).append(float(point["value"]))
            trace = means[plain(row["group"])]
            assert trace["x"] == sorted(points)
            assert trace["y"] == pytest.approx([statistics.mean(points[x]) for x in trace["x"]])
            for x, (n, low, high) in zip(trace["x"], trace["customdata"], strict=True):
                assert n == len(points[x])
                if n == 1:
                    assert low is high is None
                else:
                    expected = stats.t.interval(0.95, n - 1, statistics.mean(points[x]), stats.sem(points[x]))
                    assert (low, high) == pytest.approx(expected)
            if len(points[1]) > 1:
                lows = [low for _, low, _ in trace["customdata"]]
                highs = [high for *_, high in trace["customdata"]]
                assert bands[trace["name"]]["y"] == highs + lows[::-1]
    assert any(len(trace["x"]) == 10 for trace in bands.values()), "two groups of several seeds have a band"


def test_points_lines_and_shares_equal_what_the_csv_says(folder: Path) -> None:
    runs, found = rows(folder / "runs.csv"), figures(folder / "report.html")
    values = sorted((run["run"], float(run["optimizer.lr"]), float(run["val/acc"])) for run in runs)
    traces = found["slice optimizer.lr"]["data"]
    drawn = [point for t in traces for point in zip(t["text"], t["x"], t["y"], strict=True)]
    assert [name for name, *_ in sorted(drawn)] == [name for name, *_ in values]
    for (_, x, y), (_, rate, figure) in zip(sorted(drawn), values, strict=True):
        assert (x, y) == pytest.approx((rate, figure), rel=1e-5)  # runs.csv shows six digits of a key
    lines = {trace["name"]: trace for trace in found["parallel"]["data"] if "customdata" in trace}
    assert found["parallel"]["layout"]["xaxis"]["ticktext"] == ["val/acc", "note", "optimizer.lr"]
    low, high = min(v for *_, v in values), max(v for *_, v in values)
    for name, rate, figure in values:
        assert lines[name]["y"][0] == pytest.approx((figure - low) / (high - low))
        assert lines[name]["y"][2] == pytest.approx((math.log10(rate) + 3) / (11 / 6), abs=1e-4)
    [bars] = found["importance"]["data"]
    assert set(bars["y"]) == {"optimizer.lr", "note"}
    assert sum(bars["x"]) == pytest.approx(1)


def test_costs_and_the_front_equal_what_the_csv_says(folder: Path) -> None:
    table = rows(folder / "table.csv")
    line, points = figures(folder / "report.html")["front cost/seconds"]["data"]
    expected = [(float(r["cost/seconds"]), float(r["val/acc mean"])) for r in table if r["val/acc mean"]]  # each digit
    assert sorted(zip(points["x"], points["y"], strict=True)) == sorted(expected)
    best = [p for p in expected if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in expected)]
    assert sorted(zip(line["x"], line["y"], strict=True)) == sorted(best)


def test_pruned_runs_end_in_a_cross_and_say_what_they_saved(folder: Path) -> None:
    curves = rows(folder / "curves.csv")
    crossed = {
        trace["name"].partition(":")[0]: trace["x"][-1]
        for trace in figures(folder / "report.html")["pruned"]["data"]
        if trace["mode"] == "lines+markers"
    }
    pruned = {point["run"]: int(point["epoch"]) for point in curves if point["status"] == "pruned"}
    assert crossed == pruned
    assert len(pruned) == 4
    assert "4 of 16 runs were stopped early" in (folder / "report.html").read_text()
    assert "8 epochs instead of 20: 12 were saved" in (folder / "report.html").read_text()


def test_the_table_on_the_page_is_the_table(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    cells = re.findall(r"<tr class=.*?</tr>", page)
    table = rows(folder / "table.csv")
    assert len(cells) == len(table) == 12
    for cell, row in zip(cells, table, strict=True):
        if row["val/acc mean"]:
            assert f"<td>{float(row['val/acc mean']):.4f}</td>" in cell


def test_what_a_config_holds_is_text(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "&lt;script&gt;console.error" in page
    assert "<script>console" not in page
    assert "<img" not in page.replace("<img>", "").partition("<script")[0]
    assert len(re.findall(r"</script>", page)) == 3


def test_figures_can_be_written_whatever_they_hold(tmp_path: Path) -> None:
    for number, value in enumerate([math.nan, math.inf, 0.5, 0.25]):
        words = [f"optimizer.lr={number + 1}.0", f"+note={'</script><!--&' if number % 2 else 'a'}"]
        curves = {"val/acc": [0.1, value]}
        record(tmp_path / "r" / str(number), *words, metrics={"val/acc": value, "cost/seconds": value}, curves=curves)
    main([str(tmp_path / "r"), f"out={tmp_path}"])
    [text] = re.findall(r'id="figures">(.*?)</script>', (tmp_path / "report.html").read_text())
    assert not set("<>") & set(text)
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert {"curve val/acc", "parallel", "slice note", "slice optimizer.lr", "front cost/seconds"} <= set(found)


@pytest.mark.parametrize(("mode", "expected"), [("min", {(1.0, 1.0), (2.0, 3.0), (4.0, 4.0)}), ("max", {(4.0, 4.0)})])
def test_the_front_is_what_none_beats_in_both(mode: str, expected: set[Any], tmp_path: Path) -> None:
    points = [(1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (2.0, 0.5), (4.0, 4.0), (1.0, 1.0)]
    for number, (x, y) in enumerate(points):
        record(tmp_path / "r" / str(number), f"optimizer.lr={number + 1}.0", metrics={"val/acc": y, "val/size": x})
    objectives = [{"metric": "val/acc", "mode": "max"}, {"metric": "val/size", "mode": mode}]
    (tmp_path / "r" / "sweep.json").write_text(json.dumps({"objectives": objectives}))
    main([str(tmp_path / "r"), f"out={tmp_path}"])
    line = figures(tmp_path / "report.html")["front val/size"]["data"][0]
    assert set(zip(line["x"], line["y"], strict=True)) == expected


def test_the_mean_curve_leaves_out_a_seed_that_was_pruned_where_others_completed(tmp_path: Path) -> None:
    for number, (status, curve) in enumerate(
        [("completed", [0.25, 0.5]), ("pruned", [0.125]), ("completed", [0.75, 1.0])]
    ):
        words = ["optimizer.lr=1.0", f"seed={number}"]
        record(
            tmp_path / "r" / f"{number}",
            *words,
            status=status,
            metrics={"val/acc": curve[-1]},
            curves={"val/acc": curve},
        )
    main([str(tmp_path / "r"), f"out={tmp_path}"])
    found = figures(tmp_path / "report.html")
    [trace] = [trace for trace in found["curve val/acc"]["data"] if "customdata" in trace]
    assert trace["y"] == [0.5, 0.75]
    assert [trace["x"] for trace in found["pruned"]["data"]] == [[1, 2], [1, 2], [1]]


def test_a_sweep_that_goes_on_is_shown_as_far_as_it_came(tmp_path: Path) -> None:
    sweep = tmp_path / "12-lr"
    record(sweep / "0", "optimizer.lr=1.0", metrics={"val/acc": 0.5}, curves={"val/acc": [0.25, 0.5]})
    record(sweep / "1", "optimizer.lr=2.0", status="running", curves={"val/acc": [0.125]})
    half = next((sweep / "1").glob("tensorboard/*"))
    half.write_bytes(half.read_bytes()[:-5])  # the writer is amid a record
    (sweep / "sweep.json").write_text('{"status": "running"}')
    main([str(sweep), f"out={tmp_path}"])
    page = tmp_path / "report.html"
    assert "1 completed, 1 running" in page.read_text()
    assert "Still going on: 12-lr." in page.read_text()
    traces = {t["name"]: t["y"] for t in figures(page)["curve val/acc"]["data"]}
    assert traces == {"lr=1": [0.25, 0.5], "lr=2": [0.125]}


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ([("seed=0", "completed"), ("seed=1", "completed")], "nothing was varied"),
        (
            [("optimizer.lr=1.0", "completed"), ("optimizer.lr=2.0", "completed")],
            "it takes 10 runs that have ended with a figure",
        ),
    ],
)
def test_it_says_why_a_figure_is_missing(tmp_path: Path, runs: list[tuple[str, str]], why: str) -> None:
    for number, (word, status) in enumerate(runs):
        record(tmp_path / "runs" / str(number), word, status=status, metrics={"val/acc": 0.5 + number})
    main([str(tmp_path / "runs"), f"out={tmp_path}"])
    page = (tmp_path / "report.html").read_text()
    assert f"Not shown: {why}" in page
    assert "Not shown: the runs have no TensorBoard event files" in page
    assert "Not shown: no cost differs between groups" in page
    assert "No run was pruned" in page


@pytest.mark.parametrize("missing", ["plotly.colors", "optuna"])
def test_without_plotly_or_optuna_the_tables_are_there(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "runs" / "0", metrics={"val/acc": 0.5})
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("page", "hyperparameter_plots"):
        monkeypatch.delitem(sys.modules, f"lab.engine.analysis.{name}", raising=False)
    main([str(tmp_path / "runs")])
    with pytest.raises(UserError, match=r"report.html needs plotly and Optuna: pip install -e \.\[report\]"):
        main([str(tmp_path / "runs"), f"out={tmp_path / 'out'}"])
    tables = {"table.csv", "runs.csv", "curves.csv", "table.md", "table.tex"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == tables


@pytest.mark.slow
@chromium.needed
def test_the_page_opens_without_an_error_or_a_request(folder: Path, tmp_path: Path) -> None:
    page = folder / "report.html"
    seen = chromium.visit(page, tmp_path / "page")
    assert seen.console == []
    assert seen.requests == []
    places = len(re.findall(r"<div [^>]*data-figure=", page.read_text()))
    assert f'data-drawn="{places}"' in seen.html
    assert seen.html.count('class="main-svg"') >= places
    for script in ("console.error('seen')", "throw new Error('seen')", "Promise.reject(new Error('seen'))"):
        bad = tmp_path / "bad.html"
        bad.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
        told = chromium.visit(bad, tmp_path / f"bad-{len(script)}").console
        assert any("seen" in message for message in told), script
    picture = '<img src="http://localhost:9/seen.png">'
    bad.write_text(page.read_text().replace("</body>", f"{picture}</body>"))
    refused = chromium.visit(bad, tmp_path / "refused")
    assert refused.requests == [], "the page's own policy refuses it"
    assert "Content Security Policy" in refused.console[0]
    bad.write_text(re.sub(r"<meta http-equiv.*?>", "", bad.read_text()))
    assert "http://localhost:9/seen.png" in chromium.visit(bad, tmp_path / "asked").requests


@pytest.mark.slow
def test_a_report_over_a_real_sweep(tmp_path: Path, data_dir: Path) -> None:
    """Directories as training leaves them today, not as these tests write them."""
    paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}/logs", "trainer=cpu"]
    short = [*SMALL, "trainer.max_epochs=2", "test=false"]
    done = run_script("src/train.py", "-m", *paths, *short, "model=mlp,lenet", "seed=0,1")
    assert done.returncode == 0, done.stderr
    compared = run_script("scripts/compare.py", f"{tmp_path}/logs", "baseline=mlp", f"out={tmp_path}/out")
    assert compared.returncode == 0, compared.stderr
    assert not compared.stderr
    table, runs = rows(tmp_path / "out" / "table.csv"), rows(tmp_path / "out" / "runs.csv")
    assert {row["group"] for row in table} == {"model=lenet", "model=mlp"}
    for row in table:
        values = [float(run["val/acc"]) for run in runs if run["group"] == row["group"]]
        assert len(values) == 2
        assert float(row["val/acc mean"]) == pytest.approx(statistics.mean(values))
    curves = rows(tmp_path / "out" / "curves.csv")
    for run in runs:
        best = max(float(p["value"]) for p in curves if (p["run"], p["metric"]) == (run["run"], "val/acc"))
        assert best == pytest.approx(float(run["val/acc"]))
