"""The table as words: the same for the terminal, Markdown, LaTeX and the page."""

import math
from collections.abc import Callable, Iterator

from lab.engine.analysis.comparison import COST, Comparison, Row
from lab.engine.analysis.statistics import Summary

NONE = "\u2013"  # a dash: there is nothing to say


def header(comparison: Comparison, figures: int | None = None, costs: bool = True) -> list[str]:
    """The names of the columns.

    Args:
        comparison: what is shown.
        figures: how many of the main ones, all by default.
        costs: whether to show these.
    """
    names = ["group", "runs"]
    for metric in comparison.main[:figures]:
        names += [metric, "sd", "95 % interval"]
    if comparison.baseline:
        names += ["difference", "p (Holm)", "pairs"]
    return names + ([name.removeprefix(COST) for name in comparison.costs] if costs else [])


def cells(comparison: Comparison, row: Row, figures: int | None = None, costs: bool = True) -> list[str]:
    """The words of one row under the same `header`."""
    found = [row.group.name, ", ".join(_counts(row))]
    for metric in comparison.main[:figures]:
        summary = row.summaries[metric]
        mean = number(summary.mean)
        if summary.mean is None and metric == comparison.metric and row.so_far is not None:
            mean = f"({number(row.so_far)})"
        found += [mean, number(summary.sd), interval(summary)]
    if comparison.baseline:
        found += _against(row)
    return found + ([number(row.costs.get(name)) for name in comparison.costs] if costs else [])


def number(value: float | None) -> str:
    """A figure in a few digits."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}" if abs(value) >= 10 else f"{value:g}"
    return f"{value:.4f}" if 0.001 <= abs(value) < 1000 else f"{value:.4g}"


def interval(summary: Summary) -> str:
    """The ends of the 95 % interval."""
    if summary.low is None or summary.high is None or math.isnan(summary.low):
        return NONE
    return f"{number(summary.low)} to {number(summary.high)}"


def probability(p: float | None) -> str:
    """A p value; what is tiny is not told to the digit."""
    return NONE if p is None else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def notes(comparison: Comparison) -> Iterator[str]:
    """What the table cannot say, a sentence each."""
    aim = "higher" if comparison.mode == "max" else "lower"
    yield f"Sorted by {comparison.metric}, {aim} is better; means over seeds, intervals by Student's t."
    others = [run for run in comparison.runs if comparison.metric not in run.metrics and run.status == "completed"]
    if others:
        yield f"{len(others)} completed runs have no {comparison.metric}."
    if any(row.so_far is not None and row.summaries[comparison.metric].mean is None for row in comparison.rows):
        yield "In brackets: the best so far of runs that did not complete."
    for row in comparison.rows:
        if row.group.broken:
            yield f"{row.group.name} breaks {' and '.join(row.group.broken)}, and stands behind those that do not."
    if repeated := sum(group.repeated for group in comparison.groups):
        yield f"{repeated} runs repeat a seed of their group: of each seed the last one to complete counts."
    if diverged := [run.name for run in comparison.runs if run.diverged]:
        yield f"Not finite in {', '.join(diverged[:5])}{' and others' if len(diverged) > 5 else ''}."
    if not comparison.baseline:
        return
    yield f"Tested against {comparison.baseline}: paired t-tests over common seeds, p adjusted after Holm."
    untested: dict[str, int] = {}
    for row in comparison.rows:
        if row.against and row.against.p is None:
            untested[row.against.note] = untested.get(row.against.note, 0) + 1
    for why, rows in untested.items():
        yield f"Not tested, {rows} of {len(comparison.rows) - 1} rows: {why}."


def markdown(comparison: Comparison) -> str:
    """The table in GitHub's Markdown."""
    escape = _escaper({"|": "\\|", "<": "&lt;", "\n": " "})
    names = header(comparison)
    lines = ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) - 1)]
    lines += ["| " + " | ".join(map(escape, cells(comparison, row))) + " |" for row in comparison.rows]
    return "\n".join([*lines, "", *notes(comparison), ""])


def latex(comparison: Comparison) -> str:
    """The table for LaTeX with booktabs."""
    escape = _escaper(
        {c: f"\\{c}" for c in "&%$#_{}"}
        | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
        | {NONE: "--", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "\n": " "}
    )
    names = header(comparison)
    rows = [cells(comparison, row) for row in comparison.rows]
    body = [" & ".join(map(escape, words)) + r" \\" for words in [names, *rows]]
    return "\n".join(
        [
            "% \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}",
            "\\toprule",
            body[0],
            "\\midrule",
            *body[1:],
            "\\bottomrule",
            "\\end{tabular}",
            *(f"% {note}".replace("\n", " ") for note in notes(comparison)),
            "",
        ]
    )


def _escaper(table: dict[str, str]) -> Callable[[str], str]:
    codes = str.maketrans(table)
    return lambda text: text.translate(codes)


def _counts(row: Row) -> Iterator[str]:
    for status, many in row.group.statuses.items():
        yield str(many) if status == "completed" else f"{many} {status}"


def _against(row: Row) -> list[str]:
    if row.against is None:
        return ["baseline", "", ""]
    test = row.against
    difference = NONE if test.difference is None else ("+" if test.difference > 0 else "") + number(test.difference)
    return [difference, probability(test.adjusted), str(test.n)]
