"""Which run won, and by how much: python scripts/compare.py [DIR …] [baseline=NAME] [metric=test/acc] [out=FOLDER]

DIR             run directories, sweep directories, folders above them, or latest; without one, the newest sweep
baseline=NAME   a group of the table, or words that only its name has: the others are tested against it, seed by seed
metric=NAME     what to sort by and to test, with mode=min or max; without it the objective
out=FOLDER      writes table.csv, runs.csv, curves.csv, table.md, table.tex, and report.html, a page with figures

python scripts/compare.py diff RUN RUN: how two runs differ in config, code and figures.
"""

from lab.engine.analysis.recorded import Recorded, find_runs
from lab.engine.analysis.request import Request, read_request
from lab.engine.cli.errors import script
from lab.engine.utils.errors import UserError


def main(words: list[str]) -> None:
    if words[:1] == ["diff"]:
        show_difference(words[1:])
    else:
        show_comparison(read_request(words))


def show_comparison(asked: Request) -> None:
    from lab.engine.analysis.comparison import compare
    from lab.engine.analysis.terminal import show

    comparison = compare(find_runs(asked.places), asked.metric, asked.mode, asked.baseline)
    show(comparison)
    if asked.out is None:
        return

    from lab.engine.analysis.curves import curve_metrics, curve_rows
    from lab.engine.analysis.files import CURVES, write_csv, write_tables
    from lab.engine.analysis.page import write_page

    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={asked.out} cannot be made: {error.strerror}") from None
    paths = write_tables(comparison, asked.out)
    paths.append(asked.out / "curves.csv")
    write_csv(paths[-1], CURVES, curve_rows(comparison, curve_metrics(comparison)))
    write_page(comparison, asked.out / "report.html")
    print(f"written to {asked.out}: {', '.join(path.name for path in paths)}")
    print(f"the page: {asked.out / 'report.html'}")


def show_difference(words: list[str]) -> None:
    from lab.engine.analysis.difference import code, configs, metrics, same
    from lab.engine.analysis.terminal import show_pairs

    if len(words) != 2:
        raise UserError(f"diff takes two run directories, and was given {len(words)}")
    runs = [one_run(word) for word in words]
    names = ("first", "second")
    print(*(f"{name:6} {run.dir} ({run.status})" for name, run in zip(names, runs, strict=True)), sep="\n")
    show_pairs("config", ("key", *names), configs(*runs))
    show_pairs("code and machine", ("what", *names), code(*runs))
    show_pairs("figures", ("metric", *names, "difference"), metrics(*runs))
    if same(*runs):
        print("the runs agree in everything that they recorded")


def one_run(word: str) -> Recorded:
    found = find_runs([word])
    if len(found) != 1:
        raise UserError(f"diff {word}: {len(found)} runs are there; give the directory of one")
    return found[0]


if __name__ == "__main__":
    script(main, __doc__)
