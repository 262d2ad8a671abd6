"""Runs published results again, against what they claim: python scripts/reproduce.py mnist_lenet --seeds 5

Without names, every experiment. Prints the mean and the standard deviation over the seeds beside the expected figure
that the experiment's header names, and exits with 1 where one is missed. --write puts the table into README.md.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lab.compose import CONFIGS, ROOT
from lab.runs import Run

EXPERIMENTS = CONFIGS / "experiment"
START, END = "<!-- results -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Claim:
    """What an experiment's header promises: `expected: METRIC >= BOUND`, or `<=`."""

    metric: str
    relation: str
    bound: float
    source: str

    @classmethod
    def read(cls, path: Path) -> "Claim":
        text = path.read_text()
        expected = re.search(r"^# expected: (\S+) (>=|<=) (\S+)$", text, flags=re.M)
        source = re.search(r"^# source: +(.+)$", text, flags=re.M)
        if not expected or not source:
            raise ValueError(f"{path}: its header needs the lines `# expected: METRIC >= BOUND` and `# source: …`")
        return cls(expected[1], expected[2], float(expected[3]), source[1])

    def holds(self, value: float) -> bool:
        """Whether `value` keeps the promise."""
        return value >= self.bound if self.relation == ">=" else value <= self.bound


def measure(name: str, seed: int, overrides: list[str], timeout: float) -> tuple[Run, float]:
    """Trains one experiment in a process of its own; its run and its wall time in seconds, imports included."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "src" / "train.py"), f"experiment={name}", f"seed={seed}", *overrides],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    seconds = time.perf_counter() - start
    directory = re.search(r"^run directory: (.+)$", done.stdout, flags=re.M)
    if done.returncode or not directory:
        sys.exit(f"experiment={name} seed={seed} failed\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return Run(Path(directory[1])), seconds


def main() -> None:
    known = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; default all")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each, with seeds 0, 1, …; default 5")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one run; default 3600")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides for every run")
    args = parser.parse_args()
    if unknown := set(args.names) - set(known):
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}; there are {', '.join(known)}")

    rows, kept = [], True
    for name in args.names or known:
        claim = Claim.read(EXPERIMENTS / f"{name}.yaml")
        runs = [measure(name, seed, args.set, args.timeout) for seed in range(args.seeds)]
        values = [run.metrics[claim.metric] for run, _ in runs]
        mean = statistics.mean(values)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        seconds = statistics.median(seconds for _, seconds in runs)
        kept &= claim.holds(mean)
        verdict = "" if claim.holds(mean) else " **missed**"
        rows.append(
            f"| `experiment={name}` | {claim.metric} {mean:.4f} ± {spread:.4f}{verdict} "
            f"| {claim.relation} {claim.bound:g} | {seconds:.0f} s | {claim.source} |"
        )
        print(rows[-1], flush=True)

    if args.write:
        table = [
            f"| command | measured (mean ± sd of {args.seeds} seeds) | expected | time | source |",
            "|---|---|---|---|---|",
        ]
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text().partition(START)
        _, _, after = rest.partition(END)
        readme.write_text(before + "\n".join([START, *table, *rows, END]) + after)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
