"""Measures how fast this machine trains:

python benchmarks/speed.py precision [OVERRIDE …]   each precision, compiled and not: speed, memory, last loss
python benchmarks/speed.py scaling [OVERRIDE …]     1 to N ranks, the same batches; N cores, a thread each, or GPUs

Figures are medians of repeats, which are taken in turn, each in a process of its own; the speed is the last epoch's.
Memory is the most beyond what the imports took, or on a GPU the most that tensors took.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from lab.engine.config.compose import compose
from lab.engine.config.validate import validate
from lab.engine.runs.run import Run
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import ROOT

PRECISIONS = ["32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true"]
MODES = ["false", "default", "max-autotune"]  # of compile
QUIET = ["callbacks.progress=null", "callbacks.summary=null", "trainer.enable_progress_bar=false", "logger=none"]
SHORT = [*QUIET, "callbacks.checkpoint=null", "data.num_samples=8400", "data.num_val=400", "test=false"]


def measure(overrides: list[str]) -> None:
    """Trains in this process and prints its figures."""
    import torch
    from tokens import most_owned, owned

    from lab.engine.training.build import build
    from lab.engine.training.model import matmul_precision

    cfg, before = compose(overrides), owned()
    with most_owned() as most, matmul_precision(cfg.matmul_precision):
        model, data, trainer = build(cfg)
        trainer.fit(model, datamodule=data)
    is_gpu = trainer.strategy.root_device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if is_gpu else most[0] - before
    found = {name: float(trainer.callback_metrics[f"train/{name}"]) for name in ("samples_per_second", "loss")}
    print(json.dumps(found | {"memory": memory}))


def run(*command: str, threads: int | None = None) -> str:
    """Runs a script, and returns what it prints.

    Raises:
        UserError: with the last line of its errors.
    """
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=3600, check=False, env=os.environ | limit
    )
    if done.returncode:
        raise UserError((done.stderr.strip() or "no message").splitlines()[-1])
    return done.stdout


def precision(overrides: list[str], precisions: list[str], modes: list[str], repeats: int) -> None:
    """Prints a row for each precision and mode of compile."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            for key in [(name, mode) for name in precisions for mode in modes]:
                words = [f"trainer.precision={key[0]}", f"compile={key[1]}", f"paths.run_dir={folder}", *overrides]
                try:
                    validate(compose(words))
                    output = run(__file__, "measure", *words)
                except UserError as error:
                    if key not in found:
                        print(f"{key[0]}, compile={key[1]}: left out, {str(error).splitlines()[0]}", flush=True)
                    continue
                found.setdefault(key, []).append(json.loads(output.splitlines()[-1]))
    print(f"{'precision':12} {'compile':14} {'samples/s':>10} {'memory, MB':>11} {'loss':>8}")
    for (name, mode), rows in found.items():
        rate, memory, loss = (
            statistics.median(row[k] for row in rows) for k in ("samples_per_second", "memory", "loss")
        )
        print(f"{name:12} {mode:14} {rate:10.0f} {memory / 1e6:11.0f} {loss:8.4f}")


def scaling(overrides: list[str], most: int, repeats: int) -> None:
    """Prints a row for each number of ranks; efficiency is the speed of one of them, as a share of one alone."""
    device = "gpu" if machine.count_gpus() else "cpu"
    rates: dict[int, list[float]] = {}
    for _ in range(repeats):
        for ranks in range(1, most + 1):
            with tempfile.TemporaryDirectory() as folder:
                words = [f"trainer={device}", f"trainer.devices={ranks}", f"paths.log_dir={folder}", *overrides]
                words += ["trainer.strategy=ddp"] if ranks > 1 else []
                try:
                    validate(compose([*words, f"paths.run_dir={folder}"]))
                except UserError as error:
                    if ranks not in rates:
                        print(f"{ranks} ranks: left out, {str(error).splitlines()[0]}", flush=True)
                    continue
                run(str(ROOT / "src" / "train.py"), *words, threads=1 if device == "cpu" else None)
                rate = Run.open("latest", folder).metrics["train/samples_per_second"]
            rates.setdefault(ranks, []).append(rate)
    print(f"{'ranks':>5} {'samples/s':>10} {'efficiency':>11}")
    medians = {ranks: statistics.median(found) for ranks, found in rates.items()}
    for ranks, rate in medians.items():
        print(f"{ranks:5} {rate:10.0f} {rate / ranks / medians[1]:10.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["precision", "scaling", "measure"])
    parser.add_argument("overrides", nargs="*", help="of the training, such as model=gpt data=text")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--modes", default=",".join(MODES), help="of compile")
    parser.add_argument("--ranks", type=int, default=machine.count_gpus() or os.cpu_count(), help="the most")
    args = parser.parse_intermixed_args()
    if args.what == "measure":
        measure(args.overrides)
    elif args.what == "precision":
        precision([*SHORT, *args.overrides], args.precisions.split(","), args.modes.split(","), args.repeats)
    else:
        scaling([*SHORT, *args.overrides], args.ranks, args.repeats)


if __name__ == "__main__":
    main()
