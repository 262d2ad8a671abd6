"""Runs published results again, against what they claim: python scripts/reproduce.py mnist_lenet --seeds 5

Without names, every experiment. Prints the mean and the standard deviation over the seeds beside the figures that the
experiment's header expects, and exits with 1 where one is missed. --write puts the rows into docs/results.md.
"""

from lab.engine.cli.start import start

if __name__ == "__main__":
    start()

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab.engine.cli.errors import user_errors
from lab.engine.cli.help import usage
from lab.engine.config.overrides import last_value
from lab.engine.runs.run import Run
from lab.engine.utils.paths import CONFIGS, ROOT

EXPERIMENTS = CONFIGS / "experiment"
START, END = "<!-- results -->", "<!-- end of results -->"
HEADER = ["| command | measured (mean ± sd) | expected | seeds | time | source |", "|---|---|---|---|---|---|"]


@dataclass(frozen=True)
class Expectation:
    """Holds a bound on a metric, from an experiment's header: `expected: METRIC >= BOUND`, or `<=`."""

    metric: str
    relation: str
    bound: float

    def holds(self, value: float) -> bool:
        """Tells whether `value` keeps the bound."""
        return value >= self.bound if self.relation == ">=" else value <= self.bound


@dataclass(frozen=True)
class Experiment:
    """Holds the contents of an experiment's header.

    Args:
        expectations: its lines `expected: METRIC >= BOUND`.
        source: where the figures come from.
        seeds: that a reproduction runs: `seeds: 1` is the seed 0, of one that takes long; `seeds: [3, 4]` names them.
        first: arguments of `src/train.py` that make the run whose weights it begins with, once.
    """

    expectations: list[Expectation]
    source: str
    seeds: Sequence[int] = range(5)
    first: Sequence[str] = ()

    @classmethod
    def read(cls, path: Path) -> "Experiment":
        """Reads the header of the file at `path`."""
        text = path.read_text()
        expected = re.findall(r"^# expected: (\S+) (>=|<=) (\S+)$", text, flags=re.M)
        source = re.search(r"^# source: +(.+)$", text, flags=re.M)
        seeds = re.search(r"^# seeds: +(?:(\d+)|\[([\d, ]+)\])", text, flags=re.M)
        first = re.search(r"^# first: +python src/train.py (.+)$", text, flags=re.M)
        words = first[1].split() if first else []
        if not expected or not source:
            raise ValueError(f"{path}: its header needs the lines `# expected: METRIC >= BOUND` and `# source: …`")
        expectations = [Expectation(metric, relation, float(bound)) for metric, relation, bound in expected]
        if not seeds:
            return cls(expectations, source[1], first=words)
        chosen = [*map(int, seeds[2].split(","))] if seeds[2] else range(int(seeds[1]))
        return cls(expectations, source[1], chosen, words)

    def prepare(self) -> None:
        """Makes the run that this one begins with, if it is not there yet."""
        directory = last_value(self.first, "hydra.run.dir")
        if directory and not (ROOT / directory / "metrics.json").is_file():
            train = [sys.executable, str(ROOT / "src" / "train.py"), *self.first]
            subprocess.run(train, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def measure(name: str, seed: int, overrides: list[str], timeout: float, jobs: int) -> tuple[Run, float]:
    """Trains one experiment in a process of its own; returns its run and its wall time in seconds, with imports."""
    start = time.perf_counter()
    environment = dict(os.environ)
    if jobs > 1:  # threads that fight over a core are slower by far than fewer of them
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    done = subprocess.run(
        [sys.executable, str(ROOT / "src" / "train.py"), f"experiment={name}", f"seed={seed}", *overrides],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )
    seconds = time.perf_counter() - start
    directory = re.search(r"^run directory: (.+)$", done.stdout, flags=re.M)
    if done.returncode or not directory:
        raise RuntimeError(f"experiment={name} seed={seed} failed\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return Run(Path(directory[1])), seconds


def main() -> None:
    known = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=usage(__file__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; default all")
    parser.add_argument("--seeds", type=int, help="runs of each, with seeds 0, 1, …; default: as its header says, or 5")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one run; default 3600")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores; default 1")
    parser.add_argument("--write", action="store_true", help="put the rows into the table of docs/results.md")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides for every run")
    args = parser.parse_args()
    if unknown := set(args.names) - set(known):
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}; there are {', '.join(known)}")

    kept = True
    pool = ThreadPoolExecutor(args.jobs)
    try:
        begun = []
        for name in args.names or known:
            experiment = Experiment.read(EXPERIMENTS / f"{name}.yaml")
            experiment.prepare()
            seeds = range(args.seeds) if args.seeds else experiment.seeds
            runs = [pool.submit(measure, name, seed, args.set, args.timeout, args.jobs) for seed in seeds]
            begun.append((name, experiment, runs))
        for name, experiment, runs in begun:
            try:
                done = [run.result() for run in runs]
                metrics, seconds = [run.metrics for run, _ in done], [seconds for _, seconds in done]
                row, holds = summarize(name, experiment, metrics, seconds)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"| `experiment={name}` | **failed** |\n{error}", flush=True)
                kept = False
                continue
            print(row, flush=True)
            kept &= holds
            if args.write:
                write(name, row)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for hours of runs that have not begun
    sys.exit(0 if kept else 1)


def summarize(
    name: str, experiment: Experiment, metrics: list[dict[str, float]], seconds: list[float]
) -> tuple[str, bool]:
    """Returns a row of the table, and whether every bound was kept."""
    measured, kept = [], True
    for expectation in experiment.expectations:
        if any(expectation.metric not in run for run in metrics):
            raise RuntimeError(f"{expectation.metric} is not among the figures of the run: {', '.join(metrics[0])}")
        values = [run[expectation.metric] for run in metrics]
        mean = statistics.mean(values)
        spread = f" ± {_figure(statistics.stdev(values))}" if len(values) > 1 else ""
        holds = expectation.holds(mean)
        measured.append(f"{expectation.metric} {_figure(mean)}{spread}{'' if holds else ' **missed**'}")
        kept &= holds
    expected = ", ".join(f"{expectation.relation} {expectation.bound:g}" for expectation in experiment.expectations)
    row = (
        f"| `experiment={name}` | {', '.join(measured)} | {expected} | {len(metrics)} "
        f"| {statistics.median(seconds):.0f} s | {experiment.source} |"
    )
    return row, kept


def _figure(value: float) -> str:
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def write(name: str, row: str, page: Path = ROOT / "docs" / "results.md") -> None:
    """Puts `row` into the table of `page`, in place of the one of the same experiment, or at its end."""
    before, _, rest = page.read_text().partition(START)
    table, _, after = rest.partition(END)
    rows = [line for line in table.splitlines() if line.startswith("| `experiment=")]
    names = [line.partition("=")[2].partition("`")[0] for line in rows]
    if name in names:
        rows[names.index(name)] = row
    else:
        rows.append(row)
    page.write_text(before + "\n".join([START, *HEADER, *rows, END]) + after)


if __name__ == "__main__":
    with user_errors():
        main()
