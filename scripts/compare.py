"""Which run won, and by how much: python scripts/compare.py [DIR …] [baseline=NAME] [metric=test/acc] [out=FOLDER]

DIR             run directories, sweep directories, folders above them, or latest; without one, the newest sweep
baseline=NAME   a group of the table, or words that only its name has: the others are tested against it, seed by seed
metric=NAME     what to sort by and to test, with mode=min or max; without it the objective
out=FOLDER      writes table.csv, runs.csv, curves.csv, table.md, table.tex, and report.html, a page with figures

python scripts/compare.py diff RUN RUN: how two runs differ in config, code and figures.
"""

from lab.engine.cli.start import start

if __name__ == "__main__":
    start()

from collections.abc import Sequence
from pathlib import Path

from lab.engine.analysis.comparison import Comparison, compare
from lab.engine.analysis.difference import code, configs, metrics, same
from lab.engine.analysis.run_record import RunRecord, find_runs
from lab.engine.analysis.statistics import EXTRA
from lab.engine.analysis.terminal import show, show_pairs
from lab.engine.cli.errors import script
from lab.engine.utils.errors import UserError
from lab.engine.utils.escape import printable
from lab.engine.utils.names import nearest

KNOWN = ("baseline", "metric", "mode", "out", "paths.log_dir")


def main(argv: list[str]) -> None:
    if argv[:1] == ["diff"]:
        show_difference(argv[1:])
        return
    places, asked = parse(argv)
    out = Path(asked.pop("out")) if "out" in asked else None
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file: give a folder")
    comparison = compare(find_runs(places, asked.pop("paths.log_dir", None)), **asked)
    show(comparison)
    if out is not None:
        write_report(comparison, out)


def parse(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Splits a command line into directories and `key=value` arguments; an existing path is one even with a `=`."""
    places, asked = [], dict[str, str]()
    for word in argv:
        name, equals, value = word.partition("=")
        if not equals or Path(word).exists():
            places.append(word)
        elif name not in KNOWN:
            raise UserError(f"{name}: no such argument{nearest(name, KNOWN)}\nit takes: {', '.join(KNOWN)}")
        elif not value:
            raise UserError(f"{word}: give a value")
        else:
            asked[name] = value
    return places, asked


def write_report(comparison: Comparison, out: Path) -> None:
    from lab.engine.analysis.files import write_tables

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} cannot be made: {error.strerror}") from None
    paths = write_tables(comparison, out)
    print(f"written to {out}: {', '.join(path.name for path in paths)}")
    try:
        from lab.engine.analysis.page import write_page
    except ModuleNotFoundError:
        raise UserError(f"report.html needs plotly and Optuna: {EXTRA}\nthe tables are in {out}") from None
    write_page(comparison, out / "report.html")
    print(f"the page: {out / 'report.html'}")


def show_difference(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError(f"diff takes two run directories, and was given {len(argv)}")
    runs = [one_run(word) for word in argv]
    names = ("first", "second")
    for name, run in zip(names, runs, strict=True):
        print(printable(f"{name:6} {run.dir} ({run.status})"))
    show_pairs("config", ("key", *names), configs(*runs))
    show_pairs("code and machine", ("what", *names), code(*runs))
    show_pairs("figures", ("metric", *names, "difference"), metrics(*runs))
    if same(*runs):
        print("the runs agree in everything that they recorded")


def one_run(word: str) -> RunRecord:
    found = find_runs([word])
    if len(found) != 1:
        raise UserError(f"diff {word}: {len(found)} runs are there; give the directory of one")
    return found[0]


if __name__ == "__main__":
    script(main)
