"""Serves map-style datasets by DataLoaders: seeded order and augmentation, ranks, workers, resuming at a batch."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from lab.data.draws import Draws
from lab.data.preparation import PreparedDataModule
from lab.data.prepare import stratified_split
from lab.data.tensors import Batches, epoch_counter, generator
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.machine import memory_limit
from lab.engine.utils.random_state import random_state, restore_random_state, seed_random_state
from lab.engine.utils.ranges import NonNegativeInt, PositiveInt

Splits = dict[str, Dataset[Any]]
Key = tuple[int, int, int]  # of a batch: seed, epoch, number of the batch after it
Collate = Callable[[list[Any]], Any]

RESIDENT_SHARE = 0.25  # of the memory, for samples that are kept


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch work in this thread alone.

    For work of a millisecond on a batch, where waiting until workers leave a core to a second thread takes many.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Samples(Dataset["Made"]):
    """Makes batches of a dataset's samples, in this process or in a worker.

    Where a dataset draws random numbers, the generators of torch, numpy and Python are seeded with (seed, epoch,
    sample) before each sample: what is drawn for it depends on nothing else. Afterwards they are as they were.

    Args:
        dataset: with `__getitem__` and `__len__`.
        collate_fn: makes a batch of a list of samples.
        with_index: whether a sample holds its index: a dictionary as `index`, anything else as its last element.
    """

    def __init__(self, dataset: Dataset[Any], collate_fn: Collate, with_index: bool) -> None:
        self.dataset, self.collate_fn, self.with_index = dataset, collate_fn, with_index
        self.is_random = False  # whether a sample has drawn a random number

    def __getitem__(self, item: tuple[Tensor, Key]) -> "Made":
        rows, key = item
        before = random_state()
        try:
            samples = [] if self.is_random else [self.sample(row) for row in rows.tolist()]
            if self.is_random or not _equal(random_state(), before):
                self.is_random = True
                samples = [self.sample(row, *key[:2]) for row in rows.tolist()]
            return Made(rows, key, self.collate_fn(samples), self.is_random)
        except (UserError, RunFailed) as error:  # said in the main process: a worker would say it with its traceback
            return Made(rows, key, error, self.is_random)
        finally:
            restore_random_state(before)

    def sample(self, row: int, *seed: int) -> Any:
        if seed:
            seed_random_state(*seed, row)
        sample = self.dataset[row]
        if not self.with_index:
            return sample
        if isinstance(sample, Mapping):
            return {**sample, "index": row}
        return (*sample, row) if isinstance(sample, tuple | list) else (sample, row)


class Made(NamedTuple):
    """Is a batch as `Samples` makes it: the rows and the key that were asked for, their samples or an error."""

    rows: Tensor
    key: Key
    batch: Any
    is_random: bool


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states of the generators of torch, numpy and Python are the same."""
    (_, keys, *position), (_, other_keys, *other_position) = one["numpy"], other["numpy"]
    return (
        one["python"] == other["python"]
        and torch.equal(one["torch"], other["torch"])
        and (position == other_position and torch.equal(keys, other_keys))
    )


class Resident:
    """Keeps the samples of a dataset in memory as tensors, once a batch has brought them.

    Kept are samples that are tensors or numbers, alone, in a list or in a dictionary, of equal shapes, for which
    nothing random is drawn.

    Args:
        size: samples of the dataset.
        limit: bytes of one sample, more of which are not kept.
        reason: why nothing is kept, if nothing is.
        is_required: whether to refuse what is not kept.
    """

    def __init__(self, size: int, limit: float = math.inf, reason: str = "", is_required: bool = False) -> None:
        self.limit, self.is_required = limit, is_required
        self.columns: dict[Any, Tensor] = {}  # N samples of each element of a batch
        self.kind: Callable[..., Any] = list  # of a batch
        self.is_known = torch.zeros(size, dtype=torch.bool)
        self.is_open = True
        if reason:
            self.close(reason)

    def missing(self, rows: Tensor) -> Tensor:
        """Returns those of `rows` that are not kept."""
        return rows[~self.is_known[rows]]

    @one_thread()
    def add(self, made: Made) -> None:
        """Keeps the samples of a batch, or from now on none where these are not fit for it."""
        if not self.is_open:
            return
        if reason := self._unfit(made):
            self.close(reason)
            return
        columns = _columns(made.batch)
        if not self.columns:
            self.kind = type(made.batch)
            self.columns = {name: t.new_empty(len(self.is_known), *t.shape[1:]) for name, t in columns.items()}
        for name, kept in self.columns.items():
            kept[made.rows] = columns[name]
        self.is_known[made.rows] = True

    def _unfit(self, made: Made) -> str:
        """Returns why the samples of a batch cannot be kept, or an empty string."""
        columns = _columns(made.batch)
        if made.is_random:
            return "random numbers are drawn for its samples"
        if not all(isinstance(column, Tensor) for column in columns.values()):
            return "its samples are not tensors and numbers alone"
        if (need := sum(column[0].nbytes for column in columns.values())) > self.limit:
            return f"a sample takes {need:,} bytes, and there is room for {int(self.limit):,} of each"
        found, before = ({n: (t.dtype, t.shape[1:]) for n, t in some.items()} for some in (columns, self.columns))
        return "its samples are tensors of different shapes" if before and found != before else ""

    def close(self, reason: str) -> None:
        """Forgets all, and keeps nothing from now on."""
        if self.is_required:
            raise UserError(f"data.resident=true keeps the samples in memory, and cannot: {reason}")
        self.is_open, self.columns = False, {}
        self.is_known.zero_()

    @one_thread()
    def take(self, rows: Tensor) -> Any:
        """Returns a batch of rows that are kept."""
        values = {name: kept.index_select(0, rows) for name, kept in self.columns.items()}
        if self.kind is Tensor:
            return values[None]
        return values if self.kind is dict else self.kind(values.values())


def _columns(batch: Any) -> dict[Any, Any]:
    """Returns the elements of a batch by name or number; nothing is an element of what is no batch of such."""
    if type(batch) in (list, tuple):
        return dict(enumerate(batch))
    return batch if type(batch) is dict else {None: batch}


class Loader:
    """Iterates over a dataset in batches, in the order of a `Batches` over the numbers of its samples.

    Args:
        samples: makes the batches.
        order: gives the rows of each batch.
        num_workers: processes that make batches ahead, 0 for none. Whatever it is, the batches are the same.
        pin_memory: whether batches lie where a GPU can fetch them faster.
        resident: keeps samples, which are then not made again.
        transform: called with each batch and random numbers for its samples, in this process and in one thread.
    """

    def __init__(
        self,
        samples: Samples,
        order: Batches,
        num_workers: int = 0,
        pin_memory: bool = False,
        resident: Resident | None = None,
        transform: Callable[[Any, Draws], Any] = lambda batch, draws: batch,
    ) -> None:
        self.samples, self.order, self.transform = samples, order, transform
        self.resident = resident or Resident(len(samples.dataset), reason="it is asked to")  # type: ignore[arg-type]
        # With a generator, since it would draw from the global one. Workers stay: they keep nothing between batches.
        self.loader: DataLoader[Made] | None = DataLoader(
            samples, None, sampler=_Missing(self), num_workers=num_workers, pin_memory=pin_memory,
            generator=generator(0), persistent_workers=num_workers > 0, collate_fn=_unchanged,
        )  # fmt: skip
        self.ahead: deque[tuple[Tensor, Key]] = deque()  # rows and keys of the batches that workers are at
        self._position = {"epoch": 0, "batch": 0}  # of the batch that comes next; `order` is ahead where workers are

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        for batch, rows, (seed, epoch, number) in self._batches():
            self._position = {"epoch": epoch, "batch": number}
            with one_thread():
                batch = self.transform(batch, Draws(rows, seed, epoch))
            yield batch

    def keyed(self) -> Iterator[tuple[Tensor, Key]]:
        """Iterates over the rows of each batch and its key."""
        for (rows,) in self.order:
            position = self.order.state_dict()
            yield rows, (self.order.shuffle_seed or 0, position["epoch"], position["batch"])

    def _batches(self) -> Iterator[tuple[Any, Tensor, Key]]:
        """Iterates over the batches, with their rows and keys."""
        if self.resident.is_known.all():
            self.loader = None  # its workers end
        if self.loader is None:
            for rows, key in self.keyed():
                yield self.resident.take(rows), rows, key
            return
        self.ahead.clear()
        for made in self.loader:
            self.resident.add(_checked(made))
            while (asked := self.ahead.popleft())[1] != made.key:
                yield self._complete(*asked)
            yield (made.batch, *asked) if len(made.rows) == len(asked[0]) else self._complete(*asked)
        while self.ahead:
            yield self._complete(*self.ahead.popleft())

    def _complete(self, rows: Tensor, key: Key) -> tuple[Any, Tensor, Key]:
        """Returns a batch of samples that are kept, or were until a moment ago."""
        is_kept = len(self.resident.missing(rows)) == 0
        return self.resident.take(rows) if is_kept else _checked(self.samples[rows, key]).batch, rows, key

    def state_dict(self) -> dict[str, int]:
        return self._position

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues the epoch of `state` with the batch that came next when it was saved."""
        self._position = state
        self.order.load_state_dict(state)


class _Missing:
    """Iterates over the batches of a loader with the rows that are to be made, and notes them all in its `ahead`."""

    def __init__(self, of: Loader) -> None:
        self.of = of

    def __len__(self) -> int:
        return len(self.of.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Key]]:
        for rows, key in self.of.keyed():
            self.of.ahead.append((rows, key))
            if len(missing := self.of.resident.missing(rows)):
                yield missing, key


def _checked(made: Made) -> Made:
    if isinstance(made.batch, Exception):
        raise made.batch
    return made


def _unchanged(batch: Any) -> Any:
    return batch


def hold_out(parts: Splits, shares: Mapping[str, float], targets: Tensor | None, seed: int) -> Splits:
    """Adds the parts that are not there, taken from `train` at random.

    Args:
        parts: datasets by their names.
        shares: of the samples of `train`, for each part to be there besides it.
        targets: of the samples of `train`: labels, of which each part gets its share, or values. None where they are
            not known.
        seed: of the draw.
    """
    missing = {name: share for name, share in shares.items() if name not in parts}
    if "train" not in parts or not missing:
        return parts
    whole = parts["train"]
    dealt = torch.zeros(len(whole)) if targets is None else targets  # type: ignore[arg-type]
    rows = stratified_split(dealt, missing, generator(seed))
    return parts | {name: Subset(whole, index.tolist()) for name, index in rows.items()}


class LoaderDataModule(PreparedDataModule):
    """Serves map-style datasets in batches; a subclass overrides `load` unless they are arguments.

    Samples for which nothing random is drawn are kept as tensors, see `Resident`: later epochs are one index operation
    a batch. What `train_transform` draws comes after that: the batches are the same, kept or not.

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
        resident: whether training and validation samples are kept in memory; `auto`: where all of them take at most a
            quarter of the memory that there is for each rank of this machine.
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
        resident: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        self.given = {"train": train, "val": val, "test": test}
        self.batch_size, self.eval_batch_size, self.shuffle_seed = batch_size, eval_batch_size, shuffle_seed
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.with_index, self.collate_fn = with_index, collate_fn
        self.resident = resident
        self.datasets: Splits = {}
        self.kept: dict[str, Resident] = {}

    def load(self) -> Splits:
        """Returns the datasets that there are among `train`, `val` and `test`."""
        return {name: dataset for name, dataset in self.given.items() if dataset is not None}

    def setup(self, stage: str) -> None:
        if not self.datasets:
            self.checksum = self.source_checksum()
            self.datasets = self.load()

    def train_transform(self, batch: Any, draws: Draws) -> Any:
        """Transforms a training batch, in this process, with no other random numbers than `draws`."""
        return self.eval_transform(batch, draws)

    def eval_transform(self, batch: Any, draws: Draws) -> Any:
        """Transforms a batch of validation or test, in this process."""
        return batch

    def train_dataloader(self) -> Loader | list[Loader]:
        order = {"shuffle_seed": self.shuffle_seed, "epoch": epoch_counter(self.trainer)}
        return self._loader("train", self.batch_size, self.train_transform, **order)

    def val_dataloader(self) -> Loader | list[Loader]:
        return self.eval_dataloader("val")

    def test_dataloader(self) -> Loader | list[Loader]:
        return self.eval_dataloader("test")

    def eval_dataloader(self, split: str) -> Loader | list[Loader]:
        """Returns a loader of `train`, `val` or `test`: every sample once, in order; after `setup`."""
        return self._loader(split, self.eval_batch_size, self.eval_transform)

    def _loader(
        self, split: str, batch_size: int, transform: Callable[..., Any], **order: Any
    ) -> Loader | list[Loader]:
        if split not in self.datasets:
            return []  # Lightning's sign for none
        dataset = self.datasets[split]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = Batches(
            (torch.arange(len(dataset)),),  # type: ignore[arg-type]
            batch_size, rank=rank, world_size=world_size, **order,
        )  # fmt: skip
        if split not in self.kept:
            self.kept[split] = self._resident(split)
        samples = Samples(dataset, self.collate_fn, self.with_index)
        return Loader(samples, batches, self.num_workers, self.pin_memory, self.kept[split], transform)

    def _resident(self, split: str) -> Resident:
        sizes = {name: len(dataset) for name, dataset in self.datasets.items()}  # type: ignore[arg-type]
        required, limit, reason = self.resident is True, math.inf, ""
        if self.resident is False or split == "test":  # which is read once
            required, reason = False, "nothing is to be kept"
        elif self.collate_fn is not default_collate:
            reason = "its batches are made by a collate_fn of its own"
        elif not required:
            ranks = self.trainer.num_devices if self.trainer else 1
            limit = RESIDENT_SHARE * memory_limit() / ranks / sum(sizes[name] for name in sizes if name != "test")
        return Resident(sizes[split], limit, reason, required)
