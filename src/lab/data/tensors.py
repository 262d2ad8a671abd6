"""Serves datasets as tensors, in memory or mapped from a file: batches by one index operation, seeded order."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lab.data.draws import Draws
from lab.data.preparation import PreparedDataModule
from lab.engine.utils.errors import UserError
from lab.engine.utils.random_state import key_seed
from lab.engine.utils.ranges import CountOrShare, NonNegativeInt, PositiveInt, Seed

IGNORED = -100  # a target that no loss or metric counts, as torch's cross-entropy has it

Batch = tuple[Tensor, ...]
Transform = Callable[[Batch, Draws], Batch]


def generator(*key: int) -> torch.Generator:
    """Makes a CPU generator keyed by whole numbers: equal keys draw equal numbers, whatever the global state."""
    return torch.Generator().manual_seed(key_seed(*key))


def epoch_counter(trainer: pl.Trainer | None) -> Callable[[], int]:
    """Returns a function that gives the trainer's epoch; always the first without a trainer, and for overfitting.

    Overfitting asks for the same few batches over and over.
    """
    if trainer is None or trainer.overfit_batches > 0:  # type: ignore[attr-defined]
        return lambda: 0
    return lambda: trainer.current_epoch


def fits(size: int, device: torch.device) -> bool:
    """Returns whether `size` bytes take no more than a quarter of what a GPU has free; other devices are not asked."""
    return device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] / 4


def sizes(num_samples: PositiveInt, num_val: CountOrShare, num_test: PositiveInt) -> dict[str, int]:
    """Returns how many samples each split of a generated dataset has."""
    val = held_out(num_val, num_samples)
    return {"train": num_samples - val, "val": val, "test": num_test}


def held_out(num_val: CountOrShare, num_samples: PositiveInt) -> int:
    """Returns how many of `num_samples` are held out for validation: a whole number of them, or a share.

    Raises:
        UserError: when none is left, to train on or to validate on.
    """
    count = num_val if isinstance(num_val, int) else round(num_val * num_samples)
    if not 0 < count < num_samples:
        raise UserError(
            f"num_val={num_val} is a part of num_samples={num_samples}, and leaves none to"
            f" {'train' if count else 'validate'} on"
        )
    return count


class Batches:
    """Iterates over tensors in batches, one index operation each.

    Training (`shuffle_seed` given): every epoch has its own order, which depends on nothing but the seed and the epoch.
    `batch_size` counts the samples of all ranks together, and each rank takes its part of every batch, so that the
    same batches are trained on whatever the number of ranks. Samples left over at the end of the order are dropped.

    Evaluation (no `shuffle_seed`): every sample once, in order, over all ranks together, which take turns as those of
    torch's DistributedSampler do. Every rank makes the same number of batches, since a rank that ran out early would
    leave the others waiting.

    Args:
        tensors: of equal length N; a batch holds the rows of each.
        batch_size: more than N means N.
        shuffle_seed: None for evaluation.
        transform: called with each batch and random numbers for its samples, whose key is the seed and the epoch.
        rank: of this process.
        world_size: number of processes.
        epoch: asked at the start of each iteration.
        num_workers: processes that make batches ahead, 0 for none. Whatever it is, the batches are the same.
    """

    def __init__(
        self,
        tensors: Batch,
        batch_size: int,
        shuffle_seed: int | None = None,
        transform: Transform | None = None,
        rank: int = 0,
        world_size: int = 1,
        epoch: Callable[[], int] = lambda: 0,
        num_workers: int = 0,
    ) -> None:
        self.size = len(tensors[0])
        if self.size < world_size:
            raise UserError(f"{self.size} samples are too few for {world_size} processes")
        self.tensors = tensors
        self.batch_size = min(batch_size, self.size)
        self.shuffle_seed = shuffle_seed
        self.transform = transform
        self.rank = rank
        self.world_size = world_size
        self.epoch = epoch
        self.num_workers = num_workers
        self._position = (0, 0)  # epoch and index of the batch that comes next
        self._resume_at: tuple[int, int] | None = None
        if self.batch_size % world_size and shuffle_seed is not None:
            below = self.batch_size // world_size * world_size
            raise UserError(
                f"batch_size={self.batch_size} cannot be shared by {world_size} processes: the nearest sizes that can"
                f" are {below or world_size} and {below + world_size}"
            )

    def __len__(self) -> int:
        if self.shuffle_seed is not None:
            return self.size // self.batch_size
        batches = math.ceil(self.size / (self.world_size * self.batch_size))
        return min(batches, self.size // self.world_size)  # none is empty; with tiny ones some hold one sample more

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch()
        first = self._resume_at[1] if self._resume_at is not None and self._resume_at[0] == epoch else 0
        self._resume_at = None
        numbers, made = range(first, len(self)), _Epoch(self, epoch)
        batches: Iterable[Batch] = map(made.__getitem__, numbers)
        if self.num_workers:
            # With a seed, since a loader would draw one from the global generator, and nothing else draws there.
            batches = DataLoader(
                made, None, sampler=numbers, num_workers=self.num_workers, generator=generator(0),
                multiprocessing_context="fork",
            )  # fmt: skip
        for i, batch in zip(numbers, batches, strict=True):
            self._position = (epoch, i + 1)
            yield batch

    def state_dict(self) -> dict[str, int]:
        epoch, batch = self._position
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues the epoch of `state` with the batch that came next when it was saved."""
        self._position = self._resume_at = (state["epoch"], state["batch"])


class _Epoch(Dataset[Batch]):
    """Makes the batches of one epoch on one rank by their numbers, in workers or in this process."""

    def __init__(self, of: Batches, epoch: int) -> None:
        self.of, self.epoch = of, epoch
        self.index: Any  # what each batch takes: a slice, in training rows (batches, batch_size / world_size)
        if of.shuffle_seed is None:
            mine = range(of.rank, of.size, of.world_size)
            edges = np.linspace(0, len(mine), len(of) + 1).round().astype(int).tolist()
            batches = [mine[a:b] for a, b in pairwise(edges)]
            self.index = [slice(batch.start, batch.stop, batch.step) for batch in batches]
        else:
            dtype = torch.int32 if of.size < 2**31 else torch.int64  # the same numbers: 4 bytes a row, not 8
            order = torch.randperm(of.size, generator=generator(of.shuffle_seed, epoch), dtype=dtype)
            order = order[: len(of) * of.batch_size]
            self.index = order.view(len(of), of.world_size, -1)[:, of.rank].to(of.tensors[0].device)

    def __getitem__(self, i: int) -> Batch:
        rows, of = self.index[i], self.of
        batch = tuple(t[rows].contiguous() if isinstance(rows, slice) else t.index_select(0, rows) for t in of.tensors)
        if of.transform is None:
            return batch
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, rows.step, device=of.tensors[0].device)
        return of.transform(batch, Draws(rows, of.shuffle_seed or 0, self.epoch))


class TensorDataModule(PreparedDataModule):
    """Is the base of datasets that are tensors; a dataset adds `load` and, to get its files, `prepare_data`.

    They lie on the device; on the CPU, each batch moved by Lightning, where they take more than a quarter of the memory
    that a GPU has free.

    Args:
        batch_size: training samples of one step, over all ranks together.
        eval_batch_size: samples of one evaluation batch on each rank.
        shuffle_seed: of the order of the training batches and of augmentation.
        num_workers: processes that make training batches ahead, on the CPU: worth it where `train_transform` is slow.

    Attributes:
        splits: the tensors of `train`, `val` and `test`; none before `setup`.
    """

    def __init__(
        self,
        batch_size: PositiveInt = 128,
        eval_batch_size: PositiveInt = 2500,
        shuffle_seed: NonNegativeInt = 0,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.shuffle_seed = shuffle_seed
        self.num_workers = num_workers
        self.splits: dict[str, Batch] = {}

    @abstractmethod
    def load(self) -> dict[str, Batch]:
        """Returns the tensors of `train`, `val` and `test`, on the CPU."""

    def train_transform(self, batch: Batch, draws: Draws) -> Batch:
        """Transforms a training batch, on its device, with no other random numbers than `draws`."""
        return self.eval_transform(batch, draws)

    def eval_transform(self, batch: Batch, draws: Draws) -> Batch:
        """Transforms a batch of validation or test, on its device."""
        return batch

    def setup(self, stage: str) -> None:
        if not self.splits:
            self.checksum = self.source_checksum()
            splits = self.load()
            device = self.trainer.strategy.root_device if self.trainer and not self.num_workers else torch.device("cpu")
            if not fits(sum(t.nbytes for tensors in splits.values() for t in tensors), device):
                device = torch.device("cpu")  # Lightning moves each batch
            self.splits = {name: tuple(t.to(device) for t in tensors) for name, tensors in splits.items()}

    def train_dataloader(self) -> Batches:
        return self._batches(
            "train",
            self.batch_size,
            shuffle_seed=self.shuffle_seed,
            transform=self.train_transform,
            num_workers=self.num_workers,
            epoch=epoch_counter(self.trainer),
        )

    def val_dataloader(self) -> Batches:
        return self.eval_dataloader("val")

    def test_dataloader(self) -> Batches:
        return self.eval_dataloader("test")

    def eval_dataloader(self, split: str) -> Batches:
        """Returns a loader of `train`, `val` or `test` as in evaluation: every sample once, in order; after `setup`."""
        return self._batches(split, self.eval_batch_size, transform=self.eval_transform)

    def _batches(self, split: str, batch_size: int, **options: Any) -> Batches:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return Batches(self.splits[split], batch_size, rank=rank, world_size=world_size, **options)


class GeneratedDataModule(TensorDataModule):
    """Is the base of datasets drawn in memory, each split from a seed of its own; a dataset adds `draw`.

    Args:
        num_samples: to train on, validation included.
        num_val: of these, held out for validation; a share where below 1.
        num_test: on top.
        seed: of the samples.
        **loading: see `TensorDataModule`.
    """

    def __init__(
        self,
        num_samples: PositiveInt = 60_000,
        num_val: CountOrShare = 0.1,
        num_test: PositiveInt = 10_000,
        seed: Seed = 0,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.sizes = sizes(num_samples, num_val, num_test)
        self.seed = seed

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Draws the tensors of `count` samples."""

    def load(self) -> dict[str, Batch]:
        return {name: self.draw(size, generator(self.seed, i)) for i, (name, size) in enumerate(self.sizes.items())}
