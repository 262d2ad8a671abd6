"""The same figures whatever the number of ranks: losses, weights and tests of one, two and three."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lab.engine.runs.run import Run
from tests.conftest import SMALL, copy_checkout
from tests.processes import Forked, forked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Notes the loss of each step over all ranks; a curve would round it
NOTED = """
import json
import torch
import pytorch_lightning as pl

class Noted(pl.Callback):
    def __init__(self, path):
        self.path, self.losses = path, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        loss = outputs["loss_d"] if "loss_d" in outputs else outputs["loss"]
        self.losses.append(float(trainer.strategy.reduce(loss.detach(), reduce_op="mean")))

    def on_train_end(self, trainer, module):
        if trainer.is_global_zero:
            with open(self.path, "w") as file:
                json.dump(self.losses, file)
"""
IMAGES = [*SMALL, "data.batch_size=60"]  # of digits, 8 batches an epoch; its 10,000 images of the test are uneven
RECALL = ["data=recall", "data.num_samples=720", "data.num_val=120", "data.num_test=100", "data.batch_size=60"]
MODELS = {
    "lenet": [*IMAGES, "model=lenet"],
    "mlp": [*IMAGES, "model=mlp", "model.batch_norm=true"],
    "rnn": [*IMAGES, "model=rnn", "model.hidden_size=32"],
    "gpt": [*RECALL, "model=gpt"],
    "vae": [*IMAGES, "model=vae", "model.nll_samples=10", "model.nll_images=101"],
    "augmented": [*IMAGES, "model=lenet", "data.augment=true"],
    "gan": [*IMAGES, "model=gan", "objective=null", "callbacks.generative_metrics=null"],
    "resnet": [*SMALL, "data.batch_size=12", "model=resnet"],  # torchvision's, with batch norm
}
STEPS = {"gan": 10, "resnet": 3}  # 50 of the others
RANKS = ("trainer=cpu", "trainer=ddp_cpu", "trainer=ddp_cpu trainer.devices=3")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    checkout = copy_checkout(tmp_path_factory.mktemp("equal") / "checkout")
    (checkout / "src" / "noted").mkdir()
    (checkout / "src" / "noted" / "__init__.py").write_text(NOTED)
    with forked(checkout) as run:
        yield run


def trained(train: Forked, folder: Path, data_dir: Path, *words: str) -> tuple[Run, list[float]]:
    """A run of these words, and the losses of its steps."""
    noted = f"+callbacks.noted={{_target_: noted.Noted, path: {folder}.json}}"
    paths = [f"hydra.run.dir={folder}", f"paths.data_dir={data_dir}", f"paths.log_dir={folder}-logs"]
    status, said = train("src/train.py", *words, noted, *paths, "logger=none", seconds=200)
    assert status == 0, said
    return Run(folder), json.loads(folder.with_suffix(".json").read_text())


def limit(steps: int) -> list[str]:
    return [f"trainer.max_steps={steps}", "trainer.max_epochs=-1"]


def weights(run: Run) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize(
    ("precision", "model"),
    # A game of two players blows rounding up ten thousand times in ten steps: in single precision there is no bound
    [*(("64-true", model) for model in MODELS), *(("32-true", model) for model in MODELS if model != "gan")],
)
def test_ranks_train_as_one(precision: str, model: str, train: Forked, tmp_path: Path, data_dir: Path) -> None:
    steps = STEPS.get(model, 50)
    words = [*MODELS[model], "test=false", f"trainer.precision={precision}", *limit(steps)]
    if precision == "32-true":
        words += ["optimizer=sgd", f"optimizer.lr={1e-4 if model == 'vae' else 1e-2}"]  # of hundreds of nats
    of_loss, of_weights = (1e-9, 1e-8) if precision == "64-true" else (1e-6, 1e-5)
    (alone, losses), *others = (
        trained(train, tmp_path / str(i), data_dir, *words, *ranks.split()) for i, ranks in enumerate(RANKS)
    )
    assert len(losses) == steps
    for run, found in others:
        worst = max(abs(a - b) / abs(b) for a, b in zip(found, losses, strict=True))
        moved = max(float((value - weights(alone)[name]).abs().max()) for name, value in weights(run).items())
        print(f"{model} {precision}: losses {worst:.1e}, weights {moved:.1e}")
        assert worst < of_loss
        assert moved < of_weights


@pytest.mark.parametrize("model", ["lenet", "vae", "gpt"])
def test_ranks_test_as_one(model: str, train: Forked, tmp_path: Path, data_dir: Path) -> None:
    """One checkpoint, tested by one, two and three ranks, which cannot share its samples evenly."""
    run, _ = trained(train, tmp_path / "run", data_dir, *MODELS[model], *limit(50), "trainer=cpu")
    found = []
    for i, ranks in enumerate(RANKS):
        folder = tmp_path / str(i)
        paths = [f"hydra.run.dir={folder}", f"paths.data_dir={data_dir}", f"paths.log_dir={folder}-logs"]
        words = [*MODELS[model], *ranks.split(), "fit=false", f"weights={run.dir}", "logger=none"]
        status, said = train("src/train.py", *words, *paths, seconds=200)
        assert status == 0, said
        found.append(Run(folder).metrics)
    alone, *others = found
    names = [name for name in alone if name.startswith("test/")]
    assert names
    for metrics in others:
        print(model, {name: metrics[name] / alone[name] - 1 for name in names})
        for name in names:
            exact = name.endswith("acc")
            assert metrics[name] == alone[name] if exact else metrics[name] == pytest.approx(alone[name], rel=1e-6)
