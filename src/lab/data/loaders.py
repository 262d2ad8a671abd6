"""Serves map-style datasets by DataLoaders: seeded order and augmentation, ranks, workers, resuming at a batch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lab.data.tensors import Batches, Key, epoch_counter, generator
from lab.engine.utils.random_state import random_state, restore_random_state, seed_random_state
from lab.engine.utils.ranges import NonNegativeInt, PositiveInt

Splits = dict[str, Dataset[Any]]
Collate = Callable[[list[Any]], Any]


class Samples(Dataset[tuple[Key, Any]]):
    """Makes batches of a dataset's samples, in this process or in a worker.

    Before each sample the generators of torch, numpy and Python are seeded with (seed, epoch, sample): what is drawn
    for it depends on nothing else. Afterwards they are as they were.

    Args:
        dataset: with `__getitem__` and `__len__`.
        collate_fn: makes a batch of a list of samples.
        with_index: whether a sample holds its index: a dictionary as `index`, anything else as its last element.
    """

    def __init__(self, dataset: Dataset[Any], collate_fn: Collate, with_index: bool) -> None:
        self.dataset, self.collate_fn, self.with_index = dataset, collate_fn, with_index

    def __getitem__(self, item: tuple[Tensor, Key]) -> tuple[Key, Any]:
        rows, key = item
        seed, epoch, *_ = key
        before, samples = random_state(), []
        for row in rows.tolist():
            seed_random_state(seed, epoch, row)
            samples.append(self.sample(row))
        restore_random_state(before)
        return key, self.collate_fn(samples)

    def sample(self, row: int) -> Any:
        sample = self.dataset[row]
        if not self.with_index:
            return sample
        if isinstance(sample, Mapping):
            return {**sample, "index": row}
        return (*sample, row) if isinstance(sample, tuple | list) else (sample, row)


class Loader:
    """Iterates over a dataset in batches, in the order of a `Batches` over the numbers of its samples.

    Args:
        samples: makes the batches.
        order: gives the rows of each batch with its key: seed, epoch, rank, index of the batch.
        num_workers: processes that make batches ahead, 0 for none. Whatever it is, the batches are the same.
        pin_memory: whether batches lie where a GPU can fetch them faster.
    """

    def __init__(self, samples: Samples, order: Batches, num_workers: int = 0, pin_memory: bool = False) -> None:
        self.order = order
        # With a generator, since it would draw from the global one. Workers stay: they keep nothing between batches.
        self.loader = DataLoader(
            samples, None, sampler=order, num_workers=num_workers, pin_memory=pin_memory, generator=generator(0),
            persistent_workers=num_workers > 0, collate_fn=_unchanged,
        )  # fmt: skip
        self._position = {"epoch": 0, "batch": 0}  # of the batch that comes next; `order` is ahead where workers are

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        for (_, epoch, _, number), batch in self.loader:
            self._position = {"epoch": epoch, "batch": number + 1}
            yield batch

    def state_dict(self) -> dict[str, int]:
        return self._position

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues the epoch of `state` with the batch that came next when it was saved."""
        self._position = state
        self.order.load_state_dict(state)


def _unchanged(batch: Any) -> Any:
    return batch


class LoaderDataModule(pl.LightningDataModule):
    """Serves map-style datasets in batches; a subclass overrides `load` unless they are arguments.

    Args:
        train: the dataset of training; None for none, and likewise:
        val: of validation.
        test: of the test.
        batch_size: training samples of one step, over all ranks together.
        eval_batch_size: samples of one evaluation batch on each rank.
        shuffle_seed: of the order of the training samples and of what a dataset draws for each sample.
        num_workers: processes that make batches ahead, of each split.
        pin_memory: whether batches lie where a GPU can fetch them faster.
        with_index: whether each sample holds its index in the dataset, see `Samples`.
        collate_fn: makes a batch of a list of samples; default: torch's.
    """

    def __init__(
        self,
        train: Dataset[Any] | None = None,
        val: Dataset[Any] | None = None,
        test: Dataset[Any] | None = None,
        batch_size: PositiveInt = 128,
        eval_batch_size: PositiveInt = 256,
        shuffle_seed: NonNegativeInt = 0,
        num_workers: NonNegativeInt = 0,
        pin_memory: bool = False,
        with_index: bool = False,
        collate_fn: Collate = default_collate,
    ) -> None:
        super().__init__()
        self.given = {"train": train, "val": val, "test": test}
        self.batch_size, self.eval_batch_size, self.shuffle_seed = batch_size, eval_batch_size, shuffle_seed
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.with_index, self.collate_fn = with_index, collate_fn
        self.datasets: Splits = {}

    def load(self) -> Splits:
        """Returns the datasets that there are among `train`, `val` and `test`."""
        return {name: dataset for name, dataset in self.given.items() if dataset is not None}

    def setup(self, stage: str) -> None:
        if not self.datasets:
            self.datasets = self.load()

    def train_dataloader(self) -> Loader | list[Loader]:
        epoch = epoch_counter(self.trainer)
        return self._loader("train", self.batch_size, shuffle_seed=self.shuffle_seed, epoch=epoch)

    def val_dataloader(self) -> Loader | list[Loader]:
        return self.eval_dataloader("val")

    def test_dataloader(self) -> Loader | list[Loader]:
        return self.eval_dataloader("test")

    def eval_dataloader(self, split: str) -> Loader | list[Loader]:
        """Returns a loader of `train`, `val` or `test`: every sample once, in order; after `setup`."""
        return self._loader(split, self.eval_batch_size)

    def _loader(self, split: str, batch_size: int, **options: Any) -> Loader | list[Loader]:
        if split not in self.datasets:
            return []  # Lightning's sign for none
        dataset = self.datasets[split]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        order = Batches(
            (torch.arange(len(dataset)),),  # type: ignore[arg-type]
            batch_size, transform=lambda rows, key: (rows[0], key),  # type: ignore[arg-type,return-value]
            rank=rank, world_size=world_size, **options,
        )  # fmt: skip
        samples = Samples(dataset, self.collate_fn, self.with_index)
        return Loader(samples, order, self.num_workers, self.pin_memory)
