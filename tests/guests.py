"""Guests: models, data and callbacks as people write them with Lightning alone. tests/test_guests.py makes a package of
this file, `guests`, which knows nothing of lab.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset


class Kill(pl.Callback):
    """Kills a run amid an epoch, unless it has been resumed."""

    def __init__(self, epoch: int = 1, batch: int = 1) -> None:
        self.at = epoch, batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.ckpt_path is None and (trainer.current_epoch, batch_idx) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


# Callbacks


class Patience(pl.callbacks.EarlyStopping):
    """Has no constructor of its own."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.patience == 2


@dataclass
class Counter(pl.Callback):
    every: int = 2
    seen: list[int] = field(default_factory=list)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.every == 0:
            self.seen.append(batch_idx)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]


# Models


class Net(pl.LightningModule):
    """Reads pairs (x, y), and logs as the tutorials do."""

    def __init__(self, hidden: int = 8, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net: nn.Module = nn.Sequential(nn.Linear(4, hidden), nn.Dropout(0.2), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.mse_loss(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


class LateNet(Net):
    """Makes its layers once a trainer asks for them."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__(hidden)
        del self.net

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            self.net = nn.Linear(4, 1)


class SetupNet(LateNet):
    """Makes its layers once it knows its data."""

    def setup(self, stage: str) -> None:
        super().configure_model()

    def configure_model(self) -> None:
        pass


class DictNet(Net):
    """Reads dictionaries."""

    def loss(self, batch: Any) -> Tensor:
        return F.mse_loss(self(batch["x"]), batch["y"])

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return {"name": batch["name"], "guess": self(batch["x"])}


class Pieces(Net):
    """Reads what CombinedLoaders give: a list or a dictionary of batches."""

    def loss(self, batch: Any) -> Tensor:
        parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else [batch]
        return torch.stack([self(x).square().mean() for x in parts if x is not None]).sum()


class Pair(Net):
    """Has two optimizers, which it steps itself."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr=lr)
        self.automatic_optimization = False
        self.scale = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.net(x))

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.01), torch.optim.SGD(self.scale.parameters(), lr=0.01)


class Classifier(pl.LightningModule):
    """Classifies images with a network of timm, or with a linear one."""

    example_input_array = torch.zeros(2, 1, 28, 28)

    def __init__(self, name: str | None = None, in_chans: int = 1) -> None:
        super().__init__()
        self.net: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        if name is not None:
            import timm

            self.net = timm.create_model(name, pretrained=False, in_chans=in_chans, num_classes=10)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


# Data


def rows(number: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(number, 4, generator=torch.Generator().manual_seed(seed))
    return [(row, row.sum(0, keepdim=True)) for row in x]


class Rows(pl.LightningDataModule):
    def __init__(self, num_workers: int = 0) -> None:
        super().__init__()
        self.num_workers = num_workers

    def loader(self, number: int, seed: int, **options: Any) -> Any:
        return DataLoader(rows(number, seed), batch_size=8, num_workers=self.num_workers, **options)  # type: ignore[arg-type]

    def train_dataloader(self) -> Any:
        return self.loader(40, 0, shuffle=True)

    def val_dataloader(self) -> Any:
        return self.loader(20, 1)

    def test_dataloader(self) -> Any:
        return self.loader(20, 2)


class ManyRows(Rows):
    """Has several loaders for validation and for test."""

    def val_dataloader(self) -> Any:
        return [self.loader(20, 1), self.loader(12, 3)]

    def test_dataloader(self) -> Any:
        return [self.loader(20, 2), self.loader(12, 4)]


class Combined(Rows):
    """Takes from two loaders at once."""

    def combined(self, mode: Any, shuffle: bool = False) -> Any:
        loaders: dict[str, Any] = {"a": DataLoader([x for x, _ in rows(40)], batch_size=8, shuffle=shuffle)}  # type: ignore[arg-type]
        return CombinedLoader(loaders | {"b": DataLoader([x for x, _ in rows(24, 1)], batch_size=6)}, mode)  # type: ignore[arg-type]

    def train_dataloader(self) -> Any:
        return self.combined("max_size_cycle", shuffle=True)

    def val_dataloader(self) -> Any:
        return self.combined("sequential")

    def test_dataloader(self) -> Any:
        return self.combined("sequential")


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Has no length, and augments at random."""

    def __init__(self, number: int, seed: int, noise: float = 0.0) -> None:
        self.rows, self.noise = rows(number, seed), noise

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.rows:
            yield x + self.noise * torch.randn(4), y


class Streams(Rows):
    def train_dataloader(self) -> Any:
        return DataLoader(Stream(40, 0, noise=0.1), batch_size=8)

    def val_dataloader(self) -> Any:
        return DataLoader(Stream(20, 1), batch_size=8)

    def test_dataloader(self) -> Any:
        return DataLoader(Stream(20, 2), batch_size=8)


def collate(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    x, y = (torch.stack(list(column)) for column in zip(*samples, strict=True))
    return {"name": [f"{len(samples)}-{i}" for i in range(len(samples))], "x": x, "y": y, "meta": {"sizes": (1, None)}}


class Collated(Rows):
    """Makes its batches itself: dictionaries of tensors, words and other things."""

    def loader(self, number: int, seed: int, **options: Any) -> Any:
        return super().loader(number, seed, collate_fn=collate, **options)


class Dicts(Rows):
    """Has dictionaries as samples."""

    def loader(self, number: int, seed: int, **options: Any) -> Any:
        samples = [{"x": x, "y": y, "name": f"sample {i}"} for i, (x, y) in enumerate(rows(number, seed))]
        return DataLoader(samples, batch_size=8, **options)  # type: ignore[arg-type]


class Images(Rows):
    def loader(self, number: int, seed: int, **options: Any) -> Any:
        x = torch.randn(number, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
        return DataLoader([(image, i % 10) for i, image in enumerate(x)], batch_size=8, **options)  # type: ignore[arg-type]
