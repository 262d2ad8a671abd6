"""Which layers learn in which epoch, of our models and of somebody's."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from torch import nn
from torch.utils.data import DataLoader

from lab.callbacks.finetuning import Finetuning, find_modules
from lab.engine.training.build import build
from lab.engine.utils.errors import UserError
from tests.conftest import Compose, small

QUICK = ["data.batch_size=4", "trainer.limit_train_batches=1", "trainer.limit_val_batches=0", "logger=none"]


class Learning(pl.Callback):
    """Which modules' parameters changed in each epoch, and which batch norms' statistics did."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.changed: list[str] = []
        self.moved: list[str] = []

    def _state(self, module: Any) -> list[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        parts = [module.get_submodule(name) for name in self.names]
        return [tuple([t.detach().clone() for t in each()] for each in (p.parameters, p.buffers)) for p in parts]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.before = self._state(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        marks = ["", ""]
        for old, new in zip(self.before, self._state(pl_module), strict=True):
            for kind in range(2):
                same = all(torch.equal(a, b) for a, b in zip(old[kind], new[kind], strict=True))
                marks[kind] += "." if same else "x"
        self.changed.append(marks[0])
        self.moved.append(marks[1])


PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["unfreeze_at_epoch=2", "unfreeze_every=0"], ["......x", "......x", "xxxxxxx"]),
        (["frozen=[conv1,bn1,layer*]"], ["......x", ".....xx", "....xxx", "...xxxx", "..xxxxx", ".xxxxxx", "xxxxxxx"]),
        (["frozen=[layer1,layer2]", "unfreeze_every=2"], ["xx..xxx", "xx.xxxx", "xx.xxxx", "xxxxxxx"]),
        (["unfreeze_at_epoch=null"], ["......x", "......x"]),
    ],
    ids=["all at once", "one by one", "two by name", "never"],
)
def test_modules_learn_one_after_the_other(options: list[str], changed: list[str], cfg: Compose) -> None:
    watcher = Learning(*PARTS)
    overrides = [f"callbacks.finetune.{option}" for option in options]
    module, data, trainer = build(
        cfg(
            *small("resnet", "digits"), *QUICK, "callbacks=finetune", "callbacks.checkpoint=null", "model.l2=0.1",
            "callbacks.learning_rate=null", *overrides, f"trainer.max_epochs={len(changed)}",
        ),
        [watcher],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert watcher.changed == changed
    for weights, statistics in zip(changed, watcher.moved, strict=True):
        expected = ["." if name in ("conv1", "fc") else mark for name, mark in zip(PARTS, weights, strict=True)]
        assert [*statistics] == expected, "a frozen batch norm keeps its statistics; these two have none"


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_layers_that_come_late_learn_beside_an_average(optimizer: str, cfg: Compose) -> None:
    """With a fused kernel, which torch's SGD hands the momenta of all parameters, or of none."""
    watcher = Learning("features", "head")
    module, data, trainer = build(
        cfg(
            *small("lenet", "digits"), *QUICK, f"optimizer={optimizer}", "callbacks=[ema,finetune]",
            "callbacks.checkpoint=null", "callbacks.learning_rate=null", "trainer.max_epochs=3",
        ),
        [watcher],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert watcher.changed == [".x", "xx", "xx"]


class Theirs(BoringModel):
    """Gives its optimizer what has a gradient, as Lightning's documentation does; one parameter never learns."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Linear(32, 32))
        self.backbone[0].bias.requires_grad_(False)
        self.layer = nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.backbone(x))

    def train_dataloader(self) -> Any:
        return DataLoader(torch.randn(8, 32), batch_size=4)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_somebodys_model_under_a_schedule_of_its_own() -> None:
    names = ("backbone.0", "backbone.1", "backbone.2", "layer")
    watcher, model = Learning(*names), Theirs()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=4, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, callbacks=[watcher, Finetuning(["backbone.*"])],
    )  # fmt: skip
    bias = model.backbone[0].bias.detach().clone()
    trainer.fit(model)
    assert watcher.changed == ["...x", "..xx", ".xxx", "xxxx"]
    assert torch.equal(model.backbone[0].bias, bias), "what did not learn before does not learn after"
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["backbone.0.bias"]


def test_a_name_that_no_module_has_is_refused() -> None:
    model = Theirs()
    assert find_modules(model, None) == ["layer"]
    assert find_modules(model, ["layer", "backbone.[12]"]) == ["layer", "backbone.1", "backbone.2"]
    with pytest.raises(UserError, match=r"frozen: backbon names no module of Theirs.*; did you mean backbone\?"):
        find_modules(model, ["backbon"])
    with pytest.raises(UserError, match="leaves nothing"):
        Finetuning(["*"]).on_fit_start(pl.Trainer(accelerator="cpu", logger=False), model)


def test_frozen_layers_under_plain_ddp_are_refused(cfg: Compose) -> None:
    ddp = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.strategy=ddp", "callbacks.checkpoint=null"]
    module, data, trainer = build(cfg(*small("lenet", "digits"), *QUICK, "callbacks=finetune", *ddp))
    with pytest.raises(UserError, match="ddp_find_unused_parameters_true"):
        trainer.fit(module, datamodule=data)
    torch.distributed.destroy_process_group()
