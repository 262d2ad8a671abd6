"""Code that nobody here wrote, by config alone: each guest is trained, killed and resumed, evaluated, predicted,
exported, swept and compared, or refused in one line.
"""

import json
import os
import shutil
import signal
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars
import pytest
import torch

from lab.engine.analysis.comparison import compare
from lab.engine.analysis.run_record import find_runs
from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.utils.paths import ROOT
from tests.conftest import copy_checkout, save_pictures
from tests.processes import Forked, forked

BORING = "pytorch_lightning.demos.boring_classes"
MODELS = {
    "boring": f"_target_: {BORING}.BoringModel",
    "own_loaders": f"_target_: {BORING}.BoringModel",
    "manual": f"_target_: {BORING}.ManualOptimBoringModel",
    "transformer": "_target_: pytorch_lightning.demos.transformer.LightningTransformer\n  vocab_size: 40",
    "lstm": "_target_: pytorch_lightning.demos.lstm.LightningLSTM\n  vocab_size: 40",
    **{
        name: f"_target_: guests.{name}"
        for name in ("Net", "LateNet", "SetupNet", "DictNet", "Pieces", "Pair", "Classifier")
    },
}
DATA = {
    "boring": f"_target_: {BORING}.BoringDataModule",
    "nolen": f"_target_: {BORING}.BoringDataModuleNoLen",
    "iterable": f"_target_: {BORING}.IterableBoringDataModule",
    "mnist": (
        "_target_: pytorch_lightning.demos.mnist_datamodule.MNISTDataModule\n"
        "  data_dir: ${paths.data_dir}\n  num_workers: 0"
    ),
    **{
        name: f"_target_: guests.{name}"
        for name in ("Rows", "ManyRows", "Combined", "Streams", "Collated", "Dicts", "Images")
    },
}
# Guests that import `lightning`, in the three ways that its packages do
OF_LIGHTNING = {
    "whole": """
        import lightning as L
        import torch
        from torch.utils.data import DataLoader, TensorDataset


        class Net(L.LightningModule):
            def __init__(self, hidden=8):
                super().__init__()
                self.save_hyperparameters()
                self.net = torch.nn.Sequential(torch.nn.Linear(4, hidden), torch.nn.Linear(hidden, 1))

            def forward(self, x):
                return self.net(x)

            def step(self, batch, name):
                x, y = batch
                loss = torch.nn.functional.mse_loss(self(x), y)
                self.log(name, loss)
                return loss

            def training_step(self, batch, batch_idx):
                return self.step(batch, "train_loss")

            def validation_step(self, batch, batch_idx):
                self.step(batch, "val_loss")

            def test_step(self, batch, batch_idx):
                self.step(batch, "test_loss")

            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters())


        class Rows(L.LightningDataModule):
            def loader(self, seed, shuffle=False):
                x = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed))
                return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 4, shuffle)

            def train_dataloader(self):
                return self.loader(0, True)

            def val_dataloader(self):
                return self.loader(1)

            def test_dataloader(self):
                return self.loader(2)
    """,
    "parts": """
        from lightning import pytorch as pl
        from lightning.pytorch.callbacks import EarlyStopping
        from lightning.pytorch.utilities import rank_zero_only

        from guests.whole import Net as Whole


        class Net(Whole):
            def __init__(self):
                super().__init__(6)
                assert issubclass(Whole, pl.LightningModule)


        class Patience(EarlyStopping):
            @rank_zero_only
            def on_train_end(self, trainer, pl_module):
                assert isinstance(trainer, pl.Trainer)
    """,
}
MODELS |= {"whole": "_target_: guests.whole.Net", "parts": "_target_: guests.parts.Net"}
DATA |= {"whole": "_target_: guests.whole.Rows"}
MNIST = Path(os.environ.get("MNIST_MIRROR", "none").removeprefix("file://"))
VERBS = ("train", "resume", "evaluate", "predict", "export", "sweep", "compare")
SPEED = {"cost/seconds", "train/samples_per_second"}


@dataclass(frozen=True)
class Guest:
    """What a guest is called by, and what it must give."""

    words: str
    rows: int = 20  # of its predictions
    refused: dict[str, str] = field(default_factory=dict)  # what is said, by verb
    drawn: bool = False  # whether its test data is drawn anew each time
    needs: str = ""  # a package


OWN = "objective={metric:val_loss,mode:min}"
GUESTS = {
    "boring": Guest("model=boring data=boring", rows=64),
    "manual_optimization": Guest("model=manual data=boring", rows=64),
    "no_length": Guest("model=boring data=nolen trainer.limit_train_batches=20", rows=256, drawn=True),
    "iterables": Guest("model=Pieces data=iterable", rows=128, drawn=True),
    "mnist": Guest(
        "model=Classifier data=mnist trainer.limit_train_batches=20 trainer.limit_val_batches=20",
        rows=10_000 // 32 * 32,
    ),
    "transformer": Guest(
        "model=transformer trainer.limit_train_batches=10",
        refused={
            "evaluate": "LightningTransformer has no test_step",
            "predict": "in=test: the run's model (LightningTransformer) has no test_dataloader",
            "export": "torch.export cannot trace what forward gives",
        },
    ),
    "lstm": Guest(
        "model=lstm",
        refused={
            "evaluate": "LightningLSTM has no test_step",
            "predict": "LightningLSTM has no predict_step and no forward",
            "export": "LightningLSTM has no forward and no export_wrapper",
        },
    ),
    "own": Guest(f"model=Net data=Rows {OWN}"),
    "configure_model": Guest(f"model=LateNet data=Rows {OWN}"),
    "setup": Guest(
        f"model=SetupNet data=Rows {OWN}",
        refused=dict.fromkeys(
            ("evaluate", "predict", "export"), "its constructor and configure_model make no net.bias"
        ),
    ),
    "workers": Guest(f"model=Net data=Rows +data.num_workers=2 {OWN}"),
    "two_optimizers": Guest(f"model=Pair data=Rows {OWN}"),
    "validation_loaders": Guest(
        "model=Net data=ManyRows objective={metric:val_loss/dataloader_idx_1,mode:min}", rows=32
    ),
    "combined_loader": Guest("model=Pieces data=Combined", rows=64),
    "stream": Guest(f"model=Net data=Streams {OWN}"),
    "collate": Guest(f"model=DictNet data=Collated {OWN}"),
    "dicts": Guest(f"model=DictNet data=Dicts {OWN}"),
    "own_loaders": Guest("model=own_loaders", rows=64, drawn=True),
    "timm": Guest("model=Classifier data=Images +model.name=resnet10t", needs="timm"),
    "hugging_face": Guest(
        "model=lenet data=huggingface data.path=pictures data.input=image data.target=label data.image_shape=[1,28,28]"
        " data.batch_size=10 data.num_workers=2",
        rows=9,
        needs="datasets",
    ),
    "strategy": Guest(
        "model=Net data=Rows trainer.strategy={_target_:pytorch_lightning.strategies.SingleDeviceStrategy,device:cpu}"
    ),
    "profiler": Guest("model=Net data=Rows trainer.profiler={_target_:pytorch_lightning.profilers.SimpleProfiler}"),
    "early_stopping": Guest(
        f"model=Net data=Rows +callbacks.stop={{_target_:guests.Patience,monitor:val_loss,patience:2}} {OWN}"
    ),
    "import_lightning": Guest(f"model=whole data=whole {OWN}"),
    "from_lightning": Guest(
        f"model=parts data=whole +callbacks.stop={{_target_:guests.parts.Patience,monitor:val_loss}} {OWN}"
    ),
    "dataclass_callback": Guest("model=Net data=Rows +callbacks.counter={_target_:guests.Counter,every:3}"),
    "checkpoints": Guest(
        "model=Net data=Rows +callbacks.other={_target_:pytorch_lightning.callbacks.ModelCheckpoint,"
        f"monitor:val_loss,dirpath:${{paths.run_dir}}/others,save_top_k:2}} {OWN}"
    ),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a package of guests beside `lab`, pictures, and a small text where Lightning's demos look
    for theirs.
    """
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    (folder / "src" / "guests").mkdir()
    shutil.copy(ROOT / "tests" / "guests.py", folder / "src" / "guests" / "__init__.py")
    for name, text in OF_LIGHTNING.items():
        (folder / "src" / "guests" / f"{name}.py").write_text(textwrap.dedent(text))
    for group, nodes in (("model", MODELS), ("data", DATA)):
        for name, node in nodes.items():
            own = "defaults: [override /data: null]\n" if name in ("own_loaders", "transformer", "lstm") else ""
            text = f"# @package _global_\n{own}{group}:\n  {node}\n"
            (folder / "configs" / group / f"{name}.yaml").write_text(text)
    (folder / "data").mkdir()
    save_pictures(folder / "pictures")
    lines = (" ".join(f"word{i * j % 31}" for j in range(19)) for i in range(90))
    (folder / "data" / "wikitext-2.txt").write_text("\n".join(lines))
    if MNIST.is_dir():  # torchvision unpacks these
        shutil.copytree(MNIST, folder / "data" / "MNIST" / "raw", copy_function=shutil.copyfile)
        (folder / "data" / "MNIST" / "raw").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def run(checkout: Path) -> Iterator[Forked]:
    """Runs a script of the checkout, in a process of its own that need not import torch first."""
    with forked(checkout) as run:
        yield run


class Row:
    """The verbs of one guest."""

    def __init__(self, guest: Guest, folder: Path, run: Forked) -> None:
        self.guest, self.folder, self.run = guest, folder, run

    @property
    def words(self) -> list[str]:
        return [*self.guest.words.split(), "trainer=cpu", f"paths.log_dir={self.folder}", "paths.data_dir=data"]

    @cached_property
    def trained(self) -> tuple[Path, str]:
        return self.completed("straight")

    def completed(self, name: str) -> tuple[Path, str]:
        status, said = self.run(
            "src/train.py", *self.words, "trainer.max_epochs=3", f"hydra.run.dir={self.folder}/{name}"
        )
        assert status == 0, said
        return self.folder / name, said

    def does(self, verb: str, script: str, *words: str) -> str | None:
        """What a script says that succeeds; None where it refuses, as it should."""
        status, said = self.run(script, *words)
        if verb not in self.guest.refused:
            assert status == 0, said
            assert "Traceback" not in said
            return said
        assert status in (1, 2), said
        assert "Traceback" not in said
        assert "File" not in said
        [line] = [line for line in said.splitlines() if line.startswith("error: ")]
        assert self.guest.refused[verb] in line
        return None


def metrics(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "metrics.json").read_text())


def weights(directory: Path, name: str) -> dict[str, Any]:
    return read_checkpoint(directory / "checkpoints" / f"{name}.ckpt")["state_dict"]


@pytest.fixture(scope="module", params=[pytest.param(n, marks=[pytest.mark.slow] * (n != "boring")) for n in GUESTS])
def row(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, run: Forked, checkout: Path) -> Row:
    guest = GUESTS[request.param]
    if guest.needs:
        pytest.importorskip(guest.needs)
    if request.param == "mnist" and not MNIST.is_dir():
        pytest.skip("MNIST_MIRROR names no folder of MNIST's files")
    return Row(guest, tmp_path_factory.mktemp(request.param), run)


@pytest.mark.parametrize("verb", VERBS)
def test_guest(row: Row, verb: str) -> None:
    globals()[f"check_{verb}"](row)


def check_train(row: Row) -> None:
    directory, said = row.trained
    assert "Traceback" not in said
    assert json.loads((directory / "run.json").read_text())["status"] == "completed"
    assert metrics(directory)["cost/steps"] > 0
    assert "train/loss" in metrics(directory) or "model=Pair" in row.words  # which returns none


def check_resume(row: Row) -> None:
    straight, _ = row.trained
    kill = [*row.words, "trainer.max_epochs=3", "+callbacks.kill={_target_:guests.Kill,epoch:1,batch:1}"]
    status, said = row.run("src/train.py", *kill, f"hydra.run.dir={row.folder}/killed")
    assert status == -signal.SIGKILL, said
    if row.does("resume", "src/train.py", f"resume={row.folder}/killed") is None:
        return
    for name in ("last", "best"):
        one, other = weights(straight, name), weights(row.folder / "killed", name)
        assert all(torch.equal(other[key], value) for key, value in one.items()), name
    expected, found = metrics(straight), metrics(row.folder / "killed")
    assert {name for name in expected if expected[name] != found.get(name)} <= SPEED


def check_evaluate(row: Row) -> None:
    directory, _ = row.trained
    if row.does("evaluate", "scripts/evaluate.py", f"run={directory}") is None:
        return
    [path] = directory.glob("evaluation-*.json")
    found, expected = json.loads(path.read_text()), metrics(directory)
    assert all(name in expected for name in found)
    assert row.guest.drawn or found == {name: expected[name] for name in found}


def check_predict(row: Row) -> None:
    out = row.folder / "predictions.csv"
    if row.does("predict", "scripts/predict.py", f"run={row.trained[0]}", "in=test", f"out={out}") is not None:
        assert len(polars.read_csv(out)) == row.guest.rows


def check_export(row: Row) -> None:
    out = row.folder / "model.pt2"
    if row.does("export", "scripts/export.py", f"run={row.trained[0]}", f"out={out}") is not None:
        assert callable(torch.export.load(out).module())


def sweep(row: Row) -> Path:
    directory = row.folder / "sweep"
    if not directory.exists():
        words = [*row.words, "trainer.max_epochs=1", "seed=0,1", f"hydra.sweep.dir={directory}"]
        status, said = row.run("src/train.py", "-m", *words)
        assert status == 0, said
    return directory


def check_sweep(row: Row) -> None:
    first, second = (weights(sweep(row) / str(i), "best") for i in range(2))
    assert any(not torch.equal(second[key], value) for key, value in first.items())


def check_compare(row: Row) -> None:
    said = row.does("compare", "scripts/compare.py", str(sweep(row)))
    assert said is not None
    assert "2 completed" in said
    assert [len(group.runs) for group in compare(find_runs([str(sweep(row))])).groups] == [2], "two seeds are one group"
