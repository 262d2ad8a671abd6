"""Measures the template's cost over a hand-written loop, and its data path's gain: python benchmarks/overhead.py

Everything is measured in pairs, in turn, in one process: a machine whose speed drifts slows both sides of a pair.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from lab.data.tensors import generator
from lab.engine.checkpointing.callback import Checkpoint
from lab.engine.checkpointing.files import write_checkpoint
from lab.engine.compat.lightning import FitLoop
from lab.engine.config.compose import compose
from lab.engine.config.instantiate import instantiate
from lab.engine.training.build import build
from lab.engine.utils.paths import ROOT


class EpochClock(pl.Callback):
    """Measures from each training epoch's start to the next one's: steps, logging, validation, checkpoints."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.starts.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.starts.append(time.perf_counter())


def template_epochs(cfg: DictConfig) -> list[float]:
    """Returns the seconds of each epoch of the full template."""
    clock = EpochClock()
    model, data, trainer = build(cfg, callbacks=[clock])
    trainer.fit(model, datamodule=data)
    return [b - a for a, b in itertools.pairwise(clock.starts)]


def plain_epochs(cfg: DictConfig) -> list[float]:
    """Returns the seconds of each epoch of a hand-written loop: the same network, batches, optimizer, schedule and
    validation over normalised tensors in memory; no logging, no checkpoint.
    """
    model, data, _ = build(cfg)
    data.prepare_data()
    splits = data.load()
    train_x, val_x = (data.eval_transform(splits[name], ())[0] for name in ("train", "val"))
    train_y, val_y = splits["train"][1], splits["val"][1]
    batch, epochs = cfg.data.batch_size, cfg.trainer.max_epochs
    steps = len(train_x) // batch
    optimizer = model.optimizer(model.parameters())
    schedule = model.scheduler["scheduler"](optimizer, total_steps=steps * epochs)

    seconds = []
    for epoch in range(epochs):
        start = time.perf_counter()
        model.train()
        order = torch.randperm(len(train_x), generator=generator(cfg.data.shuffle_seed, epoch))
        for i in range(steps):
            index = order[i * batch : (i + 1) * batch]
            loss = F.cross_entropy(model(train_x[index]), train_y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            for x, y in zip(val_x.split(1000), val_y.split(1000), strict=True):
                logits = model(x)
                F.cross_entropy(logits, y).item()
                (logits.argmax(1) == y).sum().item()
        seconds.append(time.perf_counter() - start)
    return seconds


def trainer_tax(name: str, pairs: int, data_dir: str) -> None:
    template, plain, ratios = [], [], []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as run_dir:
            overrides = [
                f"model={name}",
                "data=mnist",
                "trainer=cpu",
                "trainer.max_epochs=2",
                f"paths.run_dir={run_dir}",
            ]
            cfg = composed(*overrides, data_dir=data_dir)
            template.append(template_epochs(cfg)[1])  # the first warms up
            plain.append(plain_epochs(cfg)[1])
        ratios.append(template[-1] / plain[-1])
    print(
        f"{name:6} epoch: template {statistics.median(template):.3f} s, by hand {statistics.median(plain):.3f} s,"
        f" ratio {statistics.median(ratios):.3f} (median of {pairs} pairs: {', '.join(f'{r:.3f}' for r in ratios)})"
    )


def data_path(pairs: int, data_dir: str) -> None:
    """Prints batches a second of our loader and of a DataLoader over torchvision's MNIST with the usual transforms."""
    cfg = composed("data=mnist", data_dir=data_dir)
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    usual = transforms.Compose([transforms.ToTensor(), transforms.Normalize((data.mean,), (data.std,))])
    theirs = DataLoader(MNIST(cfg.paths.data_dir, transform=usual), batch_size=cfg.data.batch_size, shuffle=True)
    ours = data.train_dataloader()

    def rate(loader: Iterable[Any], batches: int) -> float:
        start = time.perf_counter()
        for _ in itertools.islice(loader, batches):
            pass
        return batches / (time.perf_counter() - start)

    rates = [(rate(ours, len(ours)), rate(theirs, 100)) for _ in range(pairs)]
    ratio = statistics.median(a / b for a, b in rates)
    print(
        f"data path: ours {statistics.median(a for a, _ in rates):.0f} batches/s,"
        f" DataLoader {statistics.median(b for _, b in rates):.0f}, ratio {ratio:.0f} (median of {pairs} pairs)"
    )


def sampling(pairs: int, length: int = 256) -> None:
    """Prints the seconds of a GPT of four layers for `length` tokens, with its cache of keys and values and without."""
    overrides = ["model=gpt", "model.embed_dim=128", "model.num_layers=4", "data=text", f"data.context_length={length}"]
    cfg = composed(*overrides, data_dir="")
    model = instantiate(cfg.model)
    prompt = torch.zeros(1, 1, dtype=torch.long)

    def seconds(use_cache: bool) -> float:
        start = time.perf_counter()
        model.generate(prompt, length - 1, use_cache=use_cache)
        return time.perf_counter() - start

    timed = [(seconds(use_cache=True), seconds(use_cache=False)) for _ in range(pairs + 1)][1:]  # the first warms up
    print(
        f"sampling {length} tokens: with the cache {statistics.median(a for a, _ in timed):.3f} s,"
        f" without {statistics.median(b for _, b in timed):.3f} s,"
        f" ratio {statistics.median(b / a for a, b in timed):.2f} (median of {pairs} pairs)"
    )


def saving(pairs: int) -> None:
    """Prints the seconds to write a checkpoint of 100 MB by our writer, which waits for the disk, and Lightning's."""
    state = {f"layer{i}": torch.randn(1024, 1024) for i in range(25)}
    theirs = TorchCheckpointIO()
    with tempfile.TemporaryDirectory(dir=ROOT / "logs") as folder:  # where runs are, not where /tmp may be memory

        def seconds(write: Callable[[Any, Path], None], name: str) -> float:
            start = time.perf_counter()
            write({"state_dict": state}, Path(folder) / name)
            return time.perf_counter() - start

        timed = [
            (seconds(write_checkpoint, "ours.ckpt"), seconds(theirs.save_checkpoint, "theirs.ckpt"))
            for _ in range(pairs + 1)
        ][1:]
    print(
        f"saving 100 MB: ours {statistics.median(a for a, _ in timed):.3f} s,"
        f" Lightning's {statistics.median(b for _, b in timed):.3f} s,"
        f" ratio {statistics.median(a / b for a, b in timed):.2f} (median of {pairs} pairs)"
    )


def bookkeeping(name: str, pairs: int, data_dir: str) -> None:
    """Prints the share of an epoch that stopping and exact resuming cost: the point between two batches, and what a
    checkpoint holds beyond Lightning's.
    """
    with tempfile.TemporaryDirectory() as run_dir:
        cfg = composed(f"model={name}", "data=mnist", "trainer=cpu", f"paths.run_dir={run_dir}", data_dir=data_dir)
        cfg.trainer.max_epochs = pairs + 1
        clock = EpochClock()
        model, data, trainer = build(cfg, callbacks=[clock])
        trainer.fit(model, datamodule=data)
        epoch = statistics.median(b - a for a, b in itertools.pairwise(clock.starts[1:]))
        assert isinstance(trainer.fit_loop, FitLoop)
        loop, steps = trainer.fit_loop.epoch_loop, int(trainer.num_training_batches)
        between = min(timeit.repeat(lambda: loop.on_step_boundary(end_of_epoch=False), number=steps, repeat=pairs))
        [keeper] = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Checkpoint)]
        more = min(timeit.repeat(lambda: keeper.on_save_checkpoint(trainer, model, {}), number=1, repeat=pairs))
    print(
        f"{name:6} being able to resume: {1000 * between:.2f} ms for {steps} batches and {1000 * more:.2f} ms for the"
        f" checkpoint, {100 * (between + more) / epoch:.2f} % of an epoch of {epoch:.3f} s"
    )


OPENING = """
import time, torch, pytorch_lightning
start = time.perf_counter()
from lab.engine.runs.run import Run
Run.open({run!r}).model()
print(time.perf_counter() - start)
"""


def opening(pairs: int) -> None:
    """Prints the seconds from a run's directory to its model, in a fresh process with torch and Lightning imported."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["trainer.max_epochs=1", "data.num_samples=600", "data.num_val=100"]
        train = [sys.executable, str(ROOT / "src" / "train.py"), *overrides, f"paths.log_dir={folder}"]
        subprocess.run(train, check=True, capture_output=True, timeout=300)
        code = OPENING.format(run=str((Path(folder) / "latest").resolve()))
        timed = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code],
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=120,
                    env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
                ).stdout
            )
            for _ in range(pairs)
        ]
    print(f"opening a run's model: {statistics.median(timed):.3f} s beyond importing torch and Lightning")


def composed(*overrides: str, data_dir: str) -> DictConfig:
    """Composes the config that `overrides` make."""
    return compose([*overrides, *([f"paths.data_dir={data_dir}"] if data_dir else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=["mlp", "lenet"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--data-dir", default="", help="where MNIST lies")
    args = parser.parse_args()
    saving(args.pairs)
    opening(args.pairs)
    sampling(args.pairs)
    data_path(args.pairs, args.data_dir)
    for name in args.models:
        trainer_tax(name, args.pairs, args.data_dir)
        bookkeeping(name, args.pairs, args.data_dir)


if __name__ == "__main__":
    main()
