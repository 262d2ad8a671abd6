"""Measures what sweeps cost and save:

python benchmarks/sweeps.py pruning      epochs that ASHA spends against a random search without pruning
python benchmarks/sweeps.py throughput   short trials a minute in one process, against a process for each
python benchmarks/sweeps.py memory       of one process over 50 jobs
python benchmarks/sweeps.py comparing    seconds that scripts/compare.py takes for 200 recorded runs
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.engine.runs.run import Run
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.paths import ROOT

TRAIN = [sys.executable, str(ROOT / "src" / "train.py")]
ONE_THREAD = {"OMP_NUM_THREADS": "1"} | os.environ
QUIET = ["callbacks.progress=null", "callbacks.summary=null", "trainer.enable_progress_bar=false", "logger=none"]
SHORT = ["model=mlp", "trainer.max_epochs=1", "trainer.limit_train_batches=20", "trainer.limit_val_batches=1", *QUIET]
WITHIN = 5e-4  # 0.05 points of accuracy


def train(*overrides: str, timeout: float = 7200) -> float:
    """Runs a command line, and returns its seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [*TRAIN, *overrides], capture_output=True, text=True, timeout=timeout, check=False, env=ONE_THREAD
    )
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start


def pruning(paths: list[str], repeats: int, trials: int, epochs: int, jobs: int) -> None:
    """Compares pruned sweeps with unpruned ones of the same draws, from configs/sweep/lenet.yaml on MNIST."""
    # An epoch is a tenth of MNIST; four times the width would take most of the time, and never wins by much
    space = ["sweep=lenet", "model.width=1,2", "hydra/sweeper/sampler=random", f"hydra.sweeper.n_trials={trials}"]
    length = [f"trainer.max_epochs={epochs}", "trainer.limit_train_batches=0.1", "test=false", *QUIET]

    # After the first of these tenths a schedule that warms up is where it began: they are compared from the second on
    pruners = {"none": [], "asha": ["hydra.sweeper.pruner.min_resource=2"]}

    def measure(repeat: int) -> tuple[float, float]:
        seeds = [f"hydra.sweeper.seed={repeat}", f"seed={repeat}"]
        found = {}
        for pruner, rungs in pruners.items():
            with tempfile.TemporaryDirectory() as folder:
                choice = [f"hydra/sweeper/pruner={pruner}", *rungs, f"paths.log_dir={folder}"]
                train("-m", *space, *length, *seeds, *choice, *paths)
                found[pruner] = search(list(Sweep.open("latest", folder).jobs.values()), f"repeat {repeat}, {pruner}")
        (spent, best), (less, as_good) = found.values()
        print(f"repeat {repeat}: {spent / less:.2f} times fewer, val/acc lower by {100 * (best - as_good):.2f} points")
        return spent / less, best - as_good

    with ThreadPoolExecutor(jobs) as pool:
        ratios, gaps = zip(*pool.map(measure, range(repeats)), strict=True)
    verdict = "equal" if statistics.median(gaps) <= WITHIN else "NOT equal"
    print(
        f"pruning: {statistics.median(ratios):.2f} times fewer epochs, best val/acc lower by"
        f" {100 * statistics.median(gaps):.2f} points ({verdict} within 0.05), medians of {repeats}"
    )


def search(runs: list[Run], name: str) -> tuple[float, float]:
    """Returns the epochs that a search took and the best val/acc that it found; prints its curve."""
    curve, top, spent = [], 0.0, 0.0
    for run in runs:
        spent += run.metrics["cost/epochs"]
        if run.metrics["val/acc"] > top:
            top = run.metrics["val/acc"]
            curve.append(f"{top:.4f} after {spent:.0f}")
    pruned = sum(run.status == "pruned" for run in runs)
    print(f"{name}: {spent:.0f} epochs, {pruned} of {len(runs)} pruned", flush=True)
    print(f"  best val/acc so far, epochs: {', '.join(curve)}", flush=True)
    return spent, top


def throughput(paths: list[str], repeats: int, trials: int) -> None:
    """Compares short trials of one sweep with a process for each of them, in turn."""
    reused, fresh = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            overrides = [*SHORT, "test=false", f"paths.log_dir={folder}", *paths]
            reused.append(train("-m", f"seed=range({trials})", *overrides))
            fresh.append(sum(train(f"seed={seed}", *overrides) for seed in range(trials)))
    a, b = (trials * 60 / statistics.median(times) for times in (reused, fresh))
    print(
        f"throughput: {a:.0f} trials a minute in one process, {b:.1f} in fresh ones: {a / b:.1f} times"
        f" (medians of {repeats}, {trials} trials, imports included)"
    )


def memory(paths: list[str], jobs: int) -> None:
    """Prints the resident memory of one process after each job."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*SHORT, "model=lenet", f"paths.log_dir={folder}", *paths]
        process = subprocess.Popen(
            [*TRAIN, "-m", f"seed=range({jobs})", *overrides[1:]], stdout=subprocess.DEVNULL, env=ONE_THREAD
        )
        sizes: dict[int, int] = {}
        while process.poll() is None:
            done = len(list(Path(folder).glob("sweeps/*/*/*/metrics.json")))
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if done and line.startswith("VmRSS:"):
                    sizes[done] = int(line.split()[1]) // 1024
            time.sleep(0.1)
    told = ", ".join(f"{n}: {sizes[n]}" for n in sorted(sizes) if n in (1, 2, 5, 10, 20, 30, 40, jobs - 1))
    print(f"memory after each job, MiB: {told}")
    later = [sizes[n] for n in sorted(sizes) if n > jobs // 5]
    print(
        f"memory: from job {jobs // 5} on {max(later) - later[0]:+d} MiB at most, {later[-1] - later[0]:+d} at the end"
    )


def comparing(paths: list[str], repeats: int, runs: int) -> None:
    """Prints the seconds of scripts/compare.py over many recorded runs, its page included."""
    with tempfile.TemporaryDirectory() as folder:
        train("model=mlp", "trainer.max_epochs=20", f"paths.log_dir={folder}", *paths)
        recorded = (Path(folder) / "latest").resolve()
        for number in range(runs):
            copy = Path(folder) / "copies" / str(number)
            shutil.copytree(recorded, copy, ignore=shutil.ignore_patterns("checkpoints"))
            config = copy / ".hydra" / "config.yaml"
            seeded = re.sub(r"(?m)^seed: .*", f"seed: {number % 5}", config.read_text())
            config.write_text(re.sub(r"(?m)^  lr: .*", f"  lr: {number // 5 + 1}", seeded))
        command = [sys.executable, str(ROOT / "scripts" / "compare.py"), f"{folder}/copies", f"out={folder}/report"]
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, timeout=300, env=ONE_THREAD)
            times.append(time.perf_counter() - start)
        groups = len((Path(folder) / "report" / "table.csv").read_text().splitlines()) - 1
    print(f"comparing: {statistics.median(times):.2f} s for {runs} runs in {groups} groups, the page included")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pruning", "throughput", "memory", "comparing"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, help="of each sweep")
    parser.add_argument("--epochs", type=int, default=27, help="of a trial that is not pruned")
    parser.add_argument("--jobs", type=int, default=1, help="repeats at a time, where epochs are counted")
    parser.add_argument("--data-dir", default="", help="where MNIST lies")
    args = parser.parse_args()
    paths = [f"paths.data_dir={args.data_dir}"] if args.data_dir else []
    if args.what == "pruning":
        pruning(paths, args.repeats, args.trials or 27, args.epochs, args.jobs)
    elif args.what == "throughput":
        throughput(paths, args.repeats, args.trials or 20)
    elif args.what == "comparing":
        comparing(paths, args.repeats, args.trials or 200)
    else:
        memory(paths, args.trials or 50)


if __name__ == "__main__":
    main()
