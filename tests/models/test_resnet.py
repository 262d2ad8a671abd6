"""A network from elsewhere: what of it is taken over, and what learns when."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchvision

from lab.engine.training.build import build
from lab.engine.utils.errors import UserError
from lab.models.resnet import ResNet
from tests.conftest import Compose, small

QUICK = [
    "data.batch_size=4",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=0",
    "callbacks=none",
    "logger=none",
]


def test_a_large_image_meets_torchvisions_own_network() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=7).eval()
    model = ResNet([3, 64, 64], 7)
    model.stem[0].load_state_dict(theirs.conv1.state_dict())
    for ours, part in [(model.stem[1], theirs.bn1), (model.head, theirs.fc)]:
        ours.load_state_dict(part.state_dict())
    for i, stage in enumerate(model.stages, start=1):
        stage.load_state_dict(getattr(theirs, f"layer{i}").state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.eval()(images), theirs(images), atol=1e-5, rtol=1e-4)


def test_a_small_image_keeps_its_size_through_the_stem() -> None:
    model = ResNet([1, 28, 28], 10)
    assert model.stem(torch.randn(2, 1, 28, 28)).shape == (2, 64, 28, 28)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(("depth", "millions"), [(18, 11.69), (34, 21.80), (50, 25.56)])
def test_sizes_are_those_that_torchvision_documents(depth: Any, millions: float) -> None:
    assert sum(p.numel() for p in ResNet([3, 224, 224], 1000, depth).parameters()) / 1e6 == pytest.approx(
        millions, abs=0.005
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def test_weights_of_a_file_are_taken_over_where_they_fit(weights: Path) -> None:
    theirs = torch.load(weights, weights_only=True)
    model = ResNet([1, 64, 64], 10, weights=str(weights))
    torch.testing.assert_close(model.stages[0][0].conv1.weight.detach(), theirs["layer1.0.conv1.weight"])
    grey = torch.randn(1, 1, 64, 64)
    colour = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), theirs["conv1.weight"], stride=2, padding=3)
    torch.testing.assert_close(model.stem[0](grey).detach(), colour, atol=1e-4, rtol=1e-3)
    assert model.head.weight.shape == (10, 512), "other classes: this one starts afresh"
    assert model.hparams["weights"] is None, "a checkpoint brings its own"


def test_other_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no ResNet of depth 34"):
        ResNet([3, 64, 64], 10, depth=34, weights=str(weights))
    with pytest.raises(
        ValueError, match=r"model\.weights=IMAGENET1K_V9: neither a file nor one of DEFAULT, IMAGENET1K_V1"
    ):
        ResNet([3, 64, 64], 10, weights="IMAGENET1K_V9")


class Learning(pl.Callback):
    """Which parts changed in each epoch, from the stem to the head, and which batch norms did."""

    def __init__(self) -> None:
        self.changed: list[list[bool]] = []
        self.norms: list[list[bool]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.parts = [pl_module.stem, *pl_module.stages, pl_module.head]
        self.before = [[p.detach().clone() for p in part.parameters()] for part in self.parts]
        self.buffers = [[b.clone() for b in part.buffers()] for part in self.parts[:-1]]

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.changed.append(
            [
                any(not torch.equal(a, b) for a, b in zip(old, part.parameters(), strict=True))
                for old, part in zip(self.before, self.parts, strict=True)
            ]
        )
        self.norms.append(
            [
                any(not torch.equal(a, b) for a, b in zip(old, part.buffers(), strict=True))
                for old, part in zip(self.buffers, self.parts[:-1], strict=True)
            ]
        )


@pytest.mark.parametrize(
    ("overrides", "learning"),
    [
        ([], [6, 6, 6]),
        (["model.frozen_epochs=2", "model.l2=0.1"], [1, 1, 6]),
        (["model.frozen_epochs=1", "model.unfreeze_every=1"], [1, 2, 3, 4, 5, 6]),
    ],
    ids=["none", "all at once", "one by one"],
)
def test_stages_learn_one_after_the_other(overrides: list[str], learning: list[int], cfg: Compose) -> None:
    watcher = Learning()
    module, data, trainer = build(
        cfg(*small("resnet", "digits"), *QUICK, *overrides, f"trainer.max_epochs={len(learning)}"), [watcher]
    )
    trainer.fit(module, datamodule=data)
    assert [sum(parts) for parts in watcher.changed] == learning
    for parts, norms, count in zip(watcher.changed, watcher.norms, learning, strict=True):
        assert parts == [i >= 6 - count for i in range(6)], "from the head on"
        assert norms == parts[:-1], "a frozen batch norm stays as it is"


def test_frozen_parts_under_plain_ddp_are_refused(cfg: Compose) -> None:
    ddp = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.strategy=ddp", "model.frozen_epochs=1"]
    module, data, trainer = build(cfg(*small("resnet", "digits"), *QUICK, *ddp))
    with pytest.raises(UserError, match="ddp_find_unused_parameters_true"):
        trainer.fit(module, datamodule=data)
    torch.distributed.destroy_process_group()
