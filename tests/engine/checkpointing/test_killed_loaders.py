"""Runs on anyone's loaders that are killed at random moments amid epochs end as if they had never been."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.runs.run import Run
from tests.conftest import copy_checkout
from tests.engine.runs.test_resume import assert_equal, result

PACKAGE = '''
"""A model, and datasets that draw random numbers for each sample, as anybody writes them."""

import os
import random

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

from lab.data.loaders import LoaderDataModule


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.3), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        with open(f"{os.environ['PROGRESS']}-{self.global_rank}", "a") as file:
            print(self.current_epoch, *batch[-1].tolist(), file=file)
        loss = (self.net(batch[0]) - batch[0].mean()).square().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.net(batch[0]).square().mean(), sync_dist=True)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.net(batch[0]).square().mean(), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Noisy(Dataset):
    def __init__(self, noise):
        self.noise = noise

    def __len__(self):
        return 36

    def __getitem__(self, i):
        x = torch.linspace(0, i / 36, 16)
        if self.noise:
            x = x + torch.randn(16) + np.random.randn() + random.gauss(0, 1)
        return x, i


class Plain(pl.LightningDataModule):
    def __init__(self, num_workers=0):
        super().__init__()
        self.num_workers = num_workers

    def train_dataloader(self):
        return DataLoader(Noisy(True), 6, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self):
        return DataLoader(Noisy(False), 12)

    def test_dataloader(self):
        return DataLoader(Noisy(False), 12)


class Augmented(LoaderDataModule):
    def load(self):
        plain = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Grayscale()]
        augment = v2.Compose([*plain, v2.RandomCrop(4, padding=1), v2.RandomHorizontalFlip(), v2.GaussianNoise()])
        images = {name: datasets.FakeData(36, (3, 4, 4), transform=v2.Compose(plain)) for name in ("val", "test")}
        return {"train": datasets.FakeData(36, (3, 4, 4), transform=augment), **images}


class Kept(LoaderDataModule):
    def load(self):
        return {name: Noisy(False) for name in ("train", "val", "test")}

    def train_transform(self, batch, draws):
        return batch[0] + draws.normal(*batch[0].shape[1:]).float(), batch[1]
'''
CONFIGS = {
    "model/net.yaml": "model: {_target_: mine.loaders.Net}\nobjective: {metric: val_loss, mode: min}\n",
    "data/plain.yaml": "data: {_target_: mine.loaders.Plain, num_workers: 0}\n",
    "data/augmented.yaml": (
        "data: {_target_: mine.loaders.Augmented, batch_size: 6, num_workers: 0, with_index: true,"
        " shuffle_seed: '${seed}'}\n"
    ),
    "data/kept.yaml": (
        "data: {_target_: mine.loaders.Kept, batch_size: 6, num_workers: 0, resident: true, shuffle_seed: '${seed}'}\n"
    ),
}
# Starts src/train.py in a process of its own for each command; all of them share what this one has imported
DRIVER = """
import os, runpy, signal, sys, time, traceback
import torch, tensorboard.summary.writer.event_file_writer, lab.data.loaders, lab.engine.cli.command
import lab.engine.training.train, lab.engine.inference.reuse, torchvision.datasets, torchvision.transforms.v2

def start(name, words):
    if process := os.fork():
        return process
    status = 1
    try:
        os.environ["PROGRESS"] = f"{name}.progress"
        out = os.open(f"{name}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.argv = ["src/train.py", *words]
        runpy.run_path("src/train.py", run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)

def end(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def steps(name):
    try:
        return len(open(f"{name}.progress-0").readlines())
    except FileNotFoundError:
        return 0

words, folder, moments = __WORDS__, __FOLDER__, __MOMENTS__
assert end(start(f"{folder}/straight", [*words, f"hydra.run.dir={folder}/straight"])) == 0
for i, (step, seconds) in enumerate(moments):
    name = f"{folder}/{i}"
    process = start(name, [*words, f"hydra.run.dir={name}"])
    while steps(name) < step:
        assert os.waitpid(process, os.WNOHANG) == (0, 0), f"{name} has ended"
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    assert end(process) == -signal.SIGKILL, "it was killed too late"
    assert end(start(name, [f"resume={name}"])) == 0, name
"""
TRAIN = [
    "model=net", "trainer=cpu", "trainer.max_epochs=3", "trainer.log_every_n_steps=1",
    "callbacks.checkpoint.every_n_steps=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a package of one's own beside `lab`."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    (folder / "src" / "mine").mkdir()
    (folder / "src" / "mine" / "__init__.py").touch()
    (folder / "src" / "mine" / "loaders.py").write_text(PACKAGE.lstrip())
    for name, text in CONFIGS.items():
        (folder / "configs" / name).write_text("# @package _global_\n" + text)
    return folder


def environment(checkout: Path, **more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"} | more


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        ["data=augmented", "data.num_workers=2"],
        ["data=kept", "data.num_workers=2"],
        ["data=plain"],
        ["data=plain", "data.num_workers=2"],
    ],
    ids=" ".join,
)
def test_ten_kills_change_nothing(data: list[str], checkout: Path, tmp_path: Path) -> None:
    chance = random.Random(2026)
    # Of 18 steps, six an epoch; after the second there is a checkpoint
    moments = [(chance.randint(2, 16), chance.uniform(0, 0.02)) for _ in range(10)]
    words = [*TRAIN, *data, f"paths.log_dir={tmp_path}"]
    values = {"__WORDS__": words, "__FOLDER__": str(tmp_path), "__MOMENTS__": moments}
    text = textwrap.dedent(DRIVER)
    for name, value in values.items():
        text = text.replace(name, repr(value))
    (tmp_path / "driver.py").write_text(text)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py")],
        cwd=checkout, env=environment(checkout), capture_output=True, text=True, timeout=290, check=False,
    )  # fmt: skip
    printed = "".join(path.read_text()[-1500:] for path in tmp_path.glob("*.out"))
    assert done.returncode == 0, done.stderr + printed
    straight, logs = result(Run(tmp_path / "straight")), []
    for i in range(10):
        run = Run(tmp_path / str(i))
        assert_equal(straight, result(run), str(i))
        logs.append((run.dir / "train.log").read_text())
    assert all("resuming from" in log for log in logs)
    again = sum(" batches again in " in log for log in logs)
    assert again >= 5 if "data=plain" in data else again == 0, "those that were killed amid an epoch"


def seen(path: Path) -> list[str]:
    """What each rank was trained on, step by step: epoch and indices; a step that was repeated counts once."""
    return list(dict.fromkeys(path.read_text().splitlines()))


@pytest.mark.slow
def test_ranks_share_a_plain_loader_and_resume_it(checkout: Path, tmp_path: Path) -> None:
    def start(name: str, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "src/train.py", *words],
            cwd=checkout, env=environment(checkout, PROGRESS=f"{tmp_path}/{name}.progress"), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    of_one = [word for word in TRAIN if word != "trainer=cpu"]
    words = [*of_one, "data=plain", "trainer=ddp_cpu", f"paths.log_dir={tmp_path}"]
    straight = start("straight", *words, f"hydra.run.dir={tmp_path}/straight")
    said, _ = straight.communicate(timeout=120)
    assert straight.returncode == 0, said
    ranks = [seen(tmp_path / f"straight.progress-{rank}") for rank in range(2)]
    for epoch in range(3):
        shares = [[i for line in rank if line.startswith(f"{epoch} ") for i in line.split()[1:]] for rank in ranks]
        assert sorted(int(i) for share in shares for i in share) == list(range(36)), (
            "every sample once, over both ranks"
        )

    stopped = start("stopped", *words, f"hydra.run.dir={tmp_path}/stopped")
    over, progress = time.monotonic() + 120, tmp_path / "stopped.progress-0"
    while not progress.exists() or len(progress.read_text().splitlines()) < 4:  # three steps an epoch
        assert stopped.poll() is None, stopped.communicate()[0]
        assert time.monotonic() < over
        time.sleep(0.002)
    stopped.send_signal(signal.SIGTERM)
    said, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 143, said
    assert read_checkpoint(tmp_path / "stopped" / "checkpoints" / "last.ckpt")["global_step"] < 9
    resumed = start("stopped", f"resume={tmp_path}/stopped")
    said, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, said
    assert [seen(tmp_path / f"stopped.progress-{rank}") for rank in range(2)] == ranks
    assert_equal(result(Run(tmp_path / "straight")), result(Run(tmp_path / "stopped")))
