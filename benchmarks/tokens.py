"""Measures training on token files: python benchmarks/tokens.py memory|speed [--folder DIR]

memory   the memory that training GPT takes beyond imports, on a file of 4 GB, which lies in a file and not in memory
speed    steps a second on a file of 400 MB in the page cache, against the same tokens in memory

Files are made in a temporary folder, and removed at the end.
"""

import argparse
import itertools
import json
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray

from lab.data.tokens import Tokens
from lab.engine.config.compose import compose
from lab.engine.training.build import build

QUIET = ["callbacks.progress=null", "callbacks.summary=null", "trainer.enable_progress_bar=false", "logger=none"]
VOCABULARY = 1024  # in two bytes a token
CHUNK = 2**24  # tokens


class Clock(pl.Callback):
    """Notes when each training step ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.times.append(time.perf_counter())


def owned() -> int:
    """Returns the bytes that this process owns (RssAnon): pages of mapped files are the system's."""
    return 1024 * int(re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[0])


@contextmanager
def most_owned() -> Iterator[list[int]]:
    """Yields a list whose only element is the most that the process owned meanwhile, looked at every 5 ms."""
    most, done = [owned()], threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], owned())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def make(path: Path, size: int) -> None:
    """Writes a token file of `size` bytes: random numbers, in chunks."""
    tokens = np.lib.format.open_memmap(path, "w+", np.uint16, (size // 2,))
    draws = np.random.default_rng(0)
    for start in range(0, len(tokens), CHUNK):
        tokens[start : start + CHUNK] = draws.integers(VOCABULARY, size=len(tokens[start : start + CHUNK]))
    tokens.flush()
    path.with_suffix(".json").write_text(json.dumps({"vocab_size": VOCABULARY}))


def fit(path: Path, steps: int, data: Tokens | None = None) -> list[float]:
    """Trains `model=gpt` for some steps, with a short validation at their end; returns when each step ended."""
    clock = Clock()
    with tempfile.TemporaryDirectory(dir=path.parent) as run_dir:
        words = ["data=tokens", f"data.path={path}", "model=gpt", "trainer=cpu", "callbacks.checkpoint=null", *QUIET]
        limits = [f"trainer.max_steps={steps}", "trainer.limit_val_batches=2", f"paths.run_dir={run_dir}"]
        model, built, trainer = build(compose([*words, *limits]), callbacks=[clock])
        trainer.fit(model, datamodule=data or built)
    return clock.times


def memory(folder: Path, size: int, steps: int) -> None:
    """Prints the most memory of a training beyond what the process owned after its imports."""
    path = folder / "tokens.npy"
    make(path, size)
    before = owned()
    with most_owned() as most:
        start = time.perf_counter()
        first, *_, last = fit(path, steps)
    print(
        f"memory: {(most[0] - before) / 1e9:.2f} GB owned at most beyond the {before / 1e9:.2f} GB after the imports;"
        f" a file of {size / 1e9:.1f} GB, the first step after {first - start:.1f} s,"
        f" {(steps - 1) / (last - first):.1f} steps/s"
    )


class Resident(Tokens):
    """Holds the same tokens in memory."""

    def read(self) -> NDArray[Any]:
        return np.array(super().read())


def speed(folder: Path, size: int, steps: int, pairs: int) -> None:
    """Prints steps a second of both, taken in turn; the first steps of each warm up."""
    path = folder / "tokens.npy"
    make(path, size)

    def rate(kind: type[Tokens]) -> float:
        times = fit(path, steps, kind(str(path)))
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        return 1 / statistics.median(gaps[steps // 10 :])

    rates = [(rate(Tokens), rate(Resident)) for _ in range(pairs + 1)][1:]
    print(
        f"speed: mapped {statistics.median(a for a, _ in rates):.1f} steps/s, resident"
        f" {statistics.median(b for _, b in rates):.1f}, ratio {statistics.median(a / b for a, b in rates):.3f}"
        f" (median of {pairs} pairs: {', '.join(f'{a / b:.3f}' for a, b in rates)}); a file of {size / 1e6:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "speed"])
    parser.add_argument("--size", type=float, help="of the file, in bytes; default: 4e9 or 4e8")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--folder", help="where the file is made; default: the system's for temporary files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if args.what == "memory":
            memory(Path(folder), int(args.size or 4e9), args.steps)
        else:
            speed(Path(folder), int(args.size or 4e8), args.steps, args.pairs)


if __name__ == "__main__":
    main()
