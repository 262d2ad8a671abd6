"""Code that nobody here wrote runs by its config alone: Lightning's demos, and a package of one's own under src/."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel

from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.config.changes import chosen
from lab.engine.config.compose import compose
from lab.engine.config.instantiate import instantiate
from lab.engine.training.metrics import TrainMetrics
from lab.engine.training.report import report
from lab.engine.utils.errors import RunFailed
from lab.engine.utils.paths import ROOT
from tests.conftest import copy_checkout

BORING = {
    "model/boring.yaml": """
        # @package _global_
        model: {_target_: pytorch_lightning.demos.boring_classes.BoringModel}
    """,
    "data/boring.yaml": """
        # @package _global_
        data: {_target_: pytorch_lightning.demos.boring_classes.BoringDataModule}
    """,
}
CONFIGS = {
    "model/net.yaml": """
        # @package _global_
        model: {_target_: mine.net.Net, hidden: 8, lr: 0.01, pause: 0.0}
        objective: {metric: val_loss, mode: min}
    """,
    "data/rows.yaml": """
        # @package _global_
        data: {_target_: mine.net.Rows, num_rows: 64}
    """,
}
PACKAGE = '''
"""A model and its data, as one writes them with Lightning alone."""

import time

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader


class Net(pl.LightningModule):
    def __init__(self, hidden: int, lr: float, pause: float = 0.0) -> None:
        super().__init__()
        self.lr, self.pause = lr, pause
        self.net = nn.Sequential(nn.Linear(4, hidden), nn.Dropout(0.2), nn.Linear(hidden, 1))

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        return (self(batch["x"]) - batch["y"]).square().mean()

    def training_step(self, batch, batch_idx):
        time.sleep(self.pause)
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Rows(pl.LightningDataModule):
    def __init__(self, num_rows: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(num_rows, 4, generator=generator)
        self.rows = [{"x": row, "y": row.sum(0, keepdim=True)} for row in x]

    def train_dataloader(self):
        return DataLoader(self.rows, batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.rows, batch_size=16)

    def test_dataloader(self):
        return DataLoader(self.rows, batch_size=16)
'''
RUN = ["model=net", "data=rows", "trainer=cpu", "trainer.max_epochs=4"]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text).lstrip("\n"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a package of one's own beside `lab`."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    write(folder / "configs", CONFIGS)
    write(folder / "src" / "mine", {"net.py": PACKAGE, "__init__.py": '"""Mine."""'})
    return folder


def start(checkout: Path, script: str, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(checkout / script), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"},
        cwd=checkout,
    )


def run(checkout: Path, script: str, *words: str) -> str:
    return ended(start(checkout, script, *words))


def ended(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out


def metrics(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "metrics.json").read_text())


@dataclass
class Counter(pl.Callback):
    every: int = 2


def test_a_callback_that_is_a_dataclass_reaches_the_trainer_as_it_is() -> None:
    counter = Counter()
    trainer = instantiate({"_target_": "pytorch_lightning.Trainer", "logger": False}, callbacks=[counter])
    assert counter in trainer.callbacks


def test_a_run_whose_model_has_its_own_loaders_may_change_a_group(tmp_path: Path) -> None:
    """Hydra can delete no group that a file overrides."""
    text = BORING["model/boring.yaml"].replace("model:", "defaults: [override /data: null]\n        model:")
    write(tmp_path, {"model/boring.yaml": text})
    choices = {"data": None, "model": "lenet", "debug": None}
    assert chosen(choices) == {"model": "model=lenet", "debug": "~debug"}
    config = compose([f"hydra.searchpath=[{tmp_path.as_uri()}]", "model=boring", "logger=csv"])
    assert (config.data, config.dims) == (None, {})


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_nan_in_one_of_several_validation_loaders_ends_the_run() -> None:
    class Diverging(BoringModel):
        def val_dataloader(self) -> Any:
            return [super().val_dataloader()] * 2

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # type: ignore[override]
            self.log("val_loss", [0.0, math.nan][dataloader_idx])

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=2, limit_val_batches=2, num_sanity_val_steps=0,
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        callbacks=[TrainMetrics()],
    )  # fmt: skip
    with pytest.raises(RunFailed, match="val_loss/dataloader_idx_1 is nan"):
        trainer.fit(Diverging())


def test_the_table_of_a_foreign_model_has_its_names() -> None:
    lines = report({"val_loss/dataloader_idx_1": 0.5, "train/loss": 0.25, "val/acc/dataloader_idx_0": 1.0}, Path("run"))
    assert [line.split() for line in lines.splitlines()[:4]] == [
        ["train", "val", "value"],
        ["val_loss/dataloader_idx_1", "0.5000"],
        ["loss", "0.2500"],
        ["acc/dataloader_idx_0", "1.0000"],
    ]


@pytest.mark.slow
def test_lightnings_own_demo_runs_by_two_config_files(tmp_path: Path) -> None:
    write(tmp_path / "more", BORING)
    words = ["model=boring", "data=boring", "trainer=cpu", "trainer.max_epochs=2", f"paths.log_dir={tmp_path}/logs"]
    said = run(ROOT, "src/train.py", "--config-dir", str(tmp_path / "more"), *words)
    assert "Traceback" not in said
    latest = tmp_path / "logs" / "latest"
    assert json.loads((latest / "run.json").read_text())["status"] == "completed"
    figures = metrics(latest)
    assert figures["cost/steps"] == 128
    assert figures["train/loss"] > 0
    assert (latest / "checkpoints" / "best.ckpt").samefile(latest / "checkpoints" / "last.ckpt"), "no objective"
    saved = (latest / ".hydra" / "config.yaml").read_text()
    assert "optimizer: null" in saved
    assert "scheduler: null" in saved
    run(ROOT, "scripts/evaluate.py", f"run={latest.resolve()}")


@pytest.mark.slow
def test_an_optimizer_that_the_model_does_not_take_is_refused_in_words(tmp_path: Path) -> None:
    write(tmp_path / "more", BORING)
    words = ["model=boring", "data=boring", "optimizer=sgd", f"paths.log_dir={tmp_path}/logs"]
    process = start(ROOT, "src/train.py", "--config-dir", str(tmp_path / "more"), *words)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "BoringModel takes no optimizer" in said
    assert "optimizer=sgd" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_package_of_ones_own_is_trained_killed_and_resumed_to_the_bit(checkout: Path, tmp_path: Path) -> None:
    uninterrupted = start(checkout, "src/train.py", *RUN, f"paths.log_dir={tmp_path}/straight")
    killed = [*RUN, f"paths.log_dir={tmp_path}/killed", "model.pause=0.05"]
    process = start(checkout, "src/train.py", *killed)
    deadline = time.monotonic() + 60
    while not (last := tmp_path / "killed" / "latest" / "checkpoints" / "last.ckpt").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    steps = read_checkpoint(last)["global_step"]
    assert 0 < steps < 32
    ended(uninterrupted)
    straight, resumed = (tmp_path / name / "latest" for name in ("straight", "killed"))
    going_on = start(checkout, "src/train.py", "resume=latest", f"paths.log_dir={tmp_path}/killed")
    run(checkout, "scripts/evaluate.py", f"run={straight.resolve()}")
    assert "resuming from" in ended(going_on)
    for name in ("last", "best"):
        one, other = (read_checkpoint(d / "checkpoints" / f"{name}.ckpt") for d in (straight, resumed))
        assert one["global_step"] == other["global_step"]
        assert all(torch.equal(other["state_dict"][key], value) for key, value in one["state_dict"].items())
    expected, found = metrics(straight), metrics(resumed)
    different = {name for name in expected if expected[name] != found[name]}
    assert different <= {"cost/seconds", "train/samples_per_second"}
    assert {"val_loss", "test_loss", "train/loss"} <= set(expected), "names are taken as they are"

    [evaluation] = straight.glob("evaluation-*.json")
    assert json.loads(evaluation.read_text())["test_loss"] == expected["test_loss"]


@pytest.mark.slow
def test_a_package_of_ones_own_is_swept(checkout: Path, tmp_path: Path) -> None:
    run(checkout, "src/train.py", "-m", *RUN, "trainer.max_epochs=1", "seed=0,1", f"paths.log_dir={tmp_path}")
    jobs = sorted(tmp_path.glob("sweeps/*/*/*/run.json"))
    assert [json.loads(job.read_text())["status"] for job in jobs] == ["completed", "completed"]
    first, second = (metrics(job.parent) for job in jobs)
    assert first["val_loss"] != second["val_loss"]


@pytest.mark.slow
def test_a_metric_that_is_never_logged_ends_the_run(checkout: Path, tmp_path: Path) -> None:
    process = start(checkout, "src/train.py", *RUN, "objective.metric=val_los", f"paths.log_dir={tmp_path}")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "val_los was not logged" in said
    assert "did you mean val_loss" in said
    assert "Traceback" not in said
