"""Formats the table as text: the same for the terminal, Markdown, LaTeX and the page."""

import math
from collections import Counter
from collections.abc import Iterator

from lab.engine.analysis.comparison import COST, Comparison, Row
from lab.engine.runs.ranking import Standing, finite_values
from lab.engine.utils.escape import markdown_text, printable

NONE = "\u2013"  # a dash: there is nothing to say
LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    | {NONE: "--", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}"}
)


def text_rows(comparison: Comparison) -> list[list[str]]:
    """Returns the header and the rows of the table, as printable text; the less important columns are further right."""
    rows = [[(one_line(name), one_line(word)) for name, word in _text_row(comparison, row)] for row in comparison.rows]
    return [[name for name, _ in rows[0]], *([word for _, word in row] for row in rows)]


def _text_row(comparison: Comparison, row: Row) -> list[tuple[str, str]]:
    counts = {status: row.values[status] for status in comparison.statuses if row.values[status]}
    runs = (str(n) if status == "completed" else f"{n} {status}" for status, n in counts.items())
    found = [("group", row.group.name), ("runs", ", ".join(runs))]
    for metric in comparison.main:
        mean, sd, low, high = (number(row.values[f"{metric} {what}"]) for what in ("mean", "sd", "low", "high"))
        if mean == NONE and metric == comparison.metric and row.values[f"{metric} so far"] is not None:
            mean = f"({number(row.values[f'{metric} so far'])})"
        interval = NONE if low in (NONE, "nan") else f"{low} to {high}"
        found += [(metric, mean), ("sd", sd), ("95 % interval", interval)]
        if metric == comparison.metric and comparison.baseline:
            found += zip(("difference", "p (Holm)", "pairs"), _against(comparison, row), strict=True)
    return found + [(name.removeprefix(COST), number(row.values[name])) for name in comparison.costs]


def _against(comparison: Comparison, row: Row) -> tuple[str, str, str]:
    if row.group.name == comparison.baseline:
        return "baseline", "", ""
    difference, p = row.values["difference"], row.values["p holm"]
    sign = "+" if difference is not None and difference > 0 else ""
    tested = NONE if p is None else "< 0.0001" if p < 1e-4 else f"{p:.2g}"
    return sign + number(difference), tested, str(row.values["pairs"])


def number(value: float | None) -> str:
    """Formats a number with few digits."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}" if abs(value) >= 10 else f"{value:g}"
    return f"{value:.4f}" if 0.001 <= abs(value) < 1000 else f"{value:.4g}"


def one_line(text: str) -> str:
    """Returns a text in one printable line."""
    return printable(text, keep="")


def notes(comparison: Comparison) -> Iterator[str]:
    """Yields printable notes on the table, a sentence each: the order, incomplete runs, missing seeds, tests."""
    return map(one_line, _notes(comparison))


def _notes(comparison: Comparison) -> Iterator[str]:
    aim = "higher" if comparison.mode == "max" else "lower"
    yield f"Sorted by {comparison.metric}, {aim} is better; means over seeds, intervals by Student's t."
    yield from _split(comparison)
    others = [run for run in comparison.runs if comparison.metric not in run.metrics and run.status == "completed"]
    if others:
        yield f"{len(others)} completed runs have no {comparison.metric}."
    so_far, mean = f"{comparison.metric} so far", f"{comparison.metric} mean"
    if any(row.values[so_far] is not None and row.values[mean] is None for row in comparison.rows):
        yield "In brackets: the best so far of runs that did not complete."
    for row in comparison.rows:
        group, metric = row.group, comparison.metric
        if comparison.standing(group) == Standing.LACKS_SEEDS:
            known, wanted = len(finite_values(group.chosen, metric)), comparison.wanted_seeds(group)
            yield f"{group.name} has {metric} of {known} of {wanted} seeds, and stands behind those that have all."
        if row.group.broken:
            yield f"{row.group.name} breaks {' and '.join(row.group.broken)}, and stands behind those that do not."
    if repeated := sum(group.repeated for group in comparison.groups):
        yield f"{repeated} runs repeat a seed of their group: of each seed the last one to complete counts."
    if diverged := [run.name for run in comparison.runs if not all(map(math.isfinite, run.metrics.values()))]:
        yield f"Not finite in {', '.join(diverged[:5])}{' and others' if len(diverged) > 5 else ''}."
    if not comparison.baseline:
        return
    yield f"Tested against {comparison.baseline}: paired t-tests over common seeds, p adjusted after Holm."
    untested = Counter(row.values["untested"] for row in comparison.rows if row.values["untested"])
    for why, rows in untested.items():
        yield f"Not tested, {rows} of {len(comparison.rows) - 1} rows: {why}."


def _split(comparison: Comparison) -> Iterator[str]:
    """Yields a note on whether the intervals include the chance of the data's split, where a config says so."""
    several = [group for group in comparison.groups if len(group.completed) > 1]
    seeds = {str(data["seed"]) for group in several if "seed" in (data := group.runs[0].config.get("data") or {})}
    fixed = sorted(seed for seed in seeds if "${seed}" not in seed)
    if fixed:
        yield (
            f"All seeds of a group share one split of the data (data.seed={', '.join(fixed)}): its chance is not in the"
            " intervals. 'data.seed=${seed}' gives each seed a split of its own."
        )
    elif seeds:
        yield "Each seed has a split of the data of its own (data.seed=${seed}): its chance is in the intervals."


def markdown(comparison: Comparison) -> str:
    """Formats the table as GitHub's Markdown."""
    names, *rows = text_rows(comparison)
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    body = [f"| {' | '.join(map(markdown_text, line))} |" for line in lines]
    return "\n".join([*body, "", *map(markdown_text, notes(comparison)), ""])


def latex(comparison: Comparison) -> str:
    """Formats the table as LaTeX with booktabs."""
    lines = text_rows(comparison)
    names, *rows = (" & ".join(word.translate(LATEX) for word in line) + r" \\" for line in lines)
    begin = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{l{'r' * (len(lines[0]) - 1)}}}"]
    said = (f"% {note}" for note in notes(comparison))
    end = ["\\bottomrule", "\\end{tabular}", *said, ""]
    return "\n".join([*begin, "\\toprule", names, "\\midrule", *rows, *end])
