"""What the template costs over a hand-written loop, and what its data path gains: python scripts/benchmark.py

Everything is measured in pairs, in turn, in one process: a machine whose speed drifts slows both sides of a pair.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from lab.build import instantiate
from lab.compose import CONFIGS
from lab.data.module import generator
from lab.training import build


class EpochClock(pl.Callback):
    """Seconds from each training epoch's start to the next one's: steps, logging, validation, checkpoints."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.starts.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.starts.append(time.perf_counter())


def template_epochs(cfg: DictConfig) -> list[float]:
    """Seconds of each epoch of the full template."""
    clock = EpochClock()
    model, data, trainer = build(cfg, callbacks=[clock])
    trainer.fit(model, datamodule=data)
    return [b - a for a, b in itertools.pairwise(clock.starts)]


def plain_epochs(cfg: DictConfig) -> list[float]:
    """Seconds of each epoch of what one writes by hand: the same network, batches, optimizer, schedule and validation
    over normalised tensors in memory; no logging, no checkpoint.
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
        with tempfile.TemporaryDirectory() as run_dir, initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose(
                "train",
                [f"model={name}", "data=mnist", "trainer=cpu", "trainer.max_epochs=2", f"paths.run_dir={run_dir}"]
                + ([f"paths.data_dir={data_dir}"] if data_dir else []),
            )
            template.append(template_epochs(cfg)[1])  # the first warms up
            plain.append(plain_epochs(cfg)[1])
        ratios.append(template[-1] / plain[-1])
    print(
        f"{name:6} epoch: template {statistics.median(template):.3f} s, by hand {statistics.median(plain):.3f} s,"
        f" ratio {statistics.median(ratios):.3f} (median of {pairs} pairs: {', '.join(f'{r:.3f}' for r in ratios)})"
    )


def data_path(pairs: int, data_dir: str) -> None:
    """Batches a second of our loader and of a DataLoader over torchvision's MNIST with the usual transforms."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", ["data=mnist"] + ([f"paths.data_dir={data_dir}"] if data_dir else []))
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
    """Seconds that a GPT of four layers needs for `length` tokens, with its cache of keys and values and without."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(
            "train", ["model=gpt", "model.width=128", "model.num_layers=4", "data=text", f"data.context={length}"]
        )
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=["mlp", "lenet"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--data-dir", default="", help="where MNIST lies")
    args = parser.parse_args()
    sampling(args.pairs)
    data_path(args.pairs, args.data_dir)
    for name in args.models:
        trainer_tax(name, args.pairs, args.data_dir)


if __name__ == "__main__":
    main()
