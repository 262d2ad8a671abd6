"""Anyone's loaders resume amid an epoch: the run that was stopped is the run that was not, to the bit."""

import logging
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

from lab.data.loaders import LoaderDataModule
from lab.data.tensors import Batches
from lab.engine.checkpointing.callback import Checkpoint
from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.checkpointing.io import AtomicCheckpointIO
from lab.engine.compat.lightning import FitLoop
from lab.engine.distributed.preemption import SignalHandler
from lab.engine.utils.errors import Preempted


class Noisy(Dataset[Tensor]):
    """Samples of one number each, with noise of torch, numpy and Python on it."""

    def __init__(self, size: int = 24) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Tensor:
        if i >= self.size:
            raise IndexError(i)
        return torch.tensor([float(i), torch.randn(()).item(), np.random.randn(), random.gauss(0, 1)])


class Stream(IterableDataset[Tensor]):
    """A stream of unknown length, in an order of chance."""

    def __iter__(self) -> Iterator[Tensor]:
        for i in torch.randperm(24).tolist():
            yield Noisy()[i]


class Position:
    """A loader of unknown length that knows where it is, as torchdata's do."""

    def __init__(self) -> None:
        self.position = self.start = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.position, self.start = self.start, 0
        while self.position < 6:
            self.position += 1
            yield torch.full((4, 4), float(self.position))

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["position"]


def tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    else:
        for each in batch.values() if isinstance(batch, dict) else batch:
            yield from tensors(each)


class Net(pl.LightningModule):
    """Keeps what it was trained on, and draws random numbers wherever a hook lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.seen: list[Tensor] = []

    def on_train_start(self) -> None:
        torch.randn(3), np.random.randn(3), random.random()

    on_train_epoch_start = on_train_start

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        rows = torch.cat(list(tensors(batch)))
        self.seen.append(rows)
        return self.net(rows).square().mean() / 100

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Estimates(Net):
    """Asks for the number of steps, as many do: Lightning then makes the loaders before it reads the checkpoint."""

    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches == 18
        return super().configure_optimizers()


class TakesIterator(Net):
    """Fetches its batches itself."""

    def training_step(self, dataloader_iter: Iterator[Any]) -> Tensor:  # type: ignore[override]
        batch, *_ = next(dataloader_iter)
        return super().training_step(batch, 0)


class StopsAt(SignalHandler):
    """Has a signal come after some steps."""

    def __init__(self, step: int | None, trainer: pl.Trainer) -> None:
        super().__init__()
        self.step, self.trainer = step, trainer

    def received(self) -> int:
        return 15 if self.trainer.global_step == self.step else 0


def train(
    folder: Path, make: Callable[[], Any], model: type[Net] = Net, stop: int | None = None, **options: Any
) -> list[Tensor]:
    """Trains for three epochs, from the last checkpoint in `folder` if there is one: what it was trained on, and the
    weights.
    """
    last, fast = folder / "last.ckpt", options.pop("fast", True)
    pl.seed_everything(7 if last.exists() else 0, verbose=False)  # what a resumed run begins with is of no matter
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, enable_model_summary=False, enable_progress_bar=False, logger=False,
        callbacks=[Checkpoint(str(folder))], plugins=[AtomicCheckpointIO()], use_distributed_sampler=False, **options,
    )  # fmt: skip
    trainer.fit_loop = FitLoop(trainer, StopsAt(stop, trainer), fast=fast)
    data, net = make(), model()
    given = {"datamodule": data} if isinstance(data, pl.LightningDataModule) else {"train_dataloaders": data}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The 'train_dataloader' does not have many workers")
        warnings.filterwarnings("ignore", "You passed in a `val_dataloader` but have no `validation_step`")
        warnings.filterwarnings("ignore", "You are using the `dataloader_iter` step flavor")
        warnings.filterwarnings("ignore", "Found `dataloader_iter` argument in the `training_step`")
        trainer.fit(net, ckpt_path=last if last.exists() else None, **given)
    return [*net.seen, nn.utils.parameters_to_vector(net.parameters()).detach()]


def shuffled(**options: Any) -> Callable[[], DataLoader[Tensor]]:
    return lambda: DataLoader(Noisy(), 4, shuffle=True, **options)


def own_generator() -> DataLoader[Tensor]:
    return DataLoader(Noisy(), 4, shuffle=True, generator=torch.Generator().manual_seed(3))


def weighted() -> DataLoader[Tensor]:
    return DataLoader(Noisy(), 4, sampler=WeightedRandomSampler(list(range(1, 25)), 24))


def two_lengths() -> dict[str, Any]:
    return {"long": DataLoader(Noisy(), 4, shuffle=True), "short": DataLoader(Noisy(8), 4, shuffle=True)}


def with_state_beside() -> CombinedLoader:
    ours = Batches((torch.arange(96.0).view(24, 4),), 4, shuffle_seed=1)
    return CombinedLoader([DataLoader(Noisy(), 4, shuffle=True), ours], "min_size")


def resident() -> Batches:
    return Batches((torch.arange(96.0).view(24, 4),), 4, shuffle_seed=1)


def ours() -> LoaderDataModule:
    return LoaderDataModule(Noisy(), batch_size=4)


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "0 workers": (shuffled(), {}),
    "2 workers": (shuffled(num_workers=2), {}),
    "lightning's loop": (shuffled(), {"fast": False}),
    "own generator": (own_generator, {}),
    "weighted": (weighted, {}),
    "two lengths": (two_lengths, {}),
    "combined with a loader that has state": (with_state_beside, {}),
    "unknown length": (lambda: DataLoader(Stream(), 4), {}),
    "unknown length with state": (Position, {}),
    "reloaded": (shuffled(), {"reload_dataloaders_every_n_epochs": 1}),
    "steps asked for": (shuffled(num_workers=1), {"model": Estimates}),
    "steps asked for with state": (resident, {"model": Estimates}),
    "an iterator": (shuffled(), {"model": TakesIterator}),
    "LoaderDataModule": (ours, {}),
}


@pytest.mark.parametrize("stops", [[2], [8], [6], [3, 4, 11]], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_straight(case: str, stops: list[int], tmp_path: Path) -> None:
    make, options = CASES[case]
    straight = train(tmp_path / "straight", make, **options)
    for stop in stops:
        with pytest.raises(Preempted):
            train(tmp_path / "stopped", make, stop=stop, **options)
    assert read_checkpoint(tmp_path / "stopped" / "last.ckpt")["global_step"] == stops[-1]
    resumed = train(tmp_path / "stopped", make, **options)
    assert len(resumed) == len(straight) - stops[-1]
    for expected, tensor in zip(straight[stops[-1] :], resumed, strict=True):
        assert torch.equal(expected, tensor)


def test_in_the_first_epoch_persistent_workers_are_exact_too(tmp_path: Path) -> None:
    make = shuffled(num_workers=1, persistent_workers=True)
    straight = train(tmp_path / "straight", make)
    with pytest.raises(Preempted):
        train(tmp_path / "stopped", make, stop=3)
    for expected, tensor in zip(straight[3:], train(tmp_path / "stopped", make), strict=True):
        assert torch.equal(expected, tensor)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (shuffled(num_workers=1, persistent_workers=True), "persistent_workers=True"),
        (lambda: DataLoader(Stream(), 4), "Stream is read from its start again"),
        (shuffled(num_workers=1, in_order=False), "in_order=False"),
        (shuffled(), None),
    ],
)
def test_what_may_differ_is_warned_of_once(
    make: Callable[[], Any], said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Preempted):
        train(tmp_path, make, stop=8)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    with caplog.at_level(logging.INFO):
        train(tmp_path, make)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == (said is not None)
    assert said is None or said in told[0]
    assert sum("read 2 batches again in" in record.getMessage() for record in caplog.records) == 1
