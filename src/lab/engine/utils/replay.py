"""Reads the batches of an epoch a second time, as they were read before a run was stopped."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset

from lab.engine.utils.random_state import random_state, restore_random_state

AHEAD = -1  # the key, in place of a loader's, of the random state of a batch that is fetched ahead


class EpochReplay:
    """Holds the random states by which the batches of an epoch can be read again.

    A DataLoader draws the seed of its workers when its iterator is made, and the order of its samples at the first
    batch: from the global generators, or from one of its own. Without workers its samples draw from the global
    generators too, between the draws of the model. So there are two states to hold. There is one more for each loader
    that begins anew within the epoch, beside a longer one, and one for a batch that is fetched ahead: it is not trained
    on yet, and must be the same one.
    """

    def __init__(self) -> None:
        self._loaders: list[Any] = []
        self._iterators: dict[str, Any] = {}  # random state before the iterators were made
        self._passes: dict[int, tuple[int, dict[str, Any]]] = {}  # by loader: the batch it begins with, random state
        self._restored: dict[int, dict[str, Any]] = {}  # by batch: random state to restore before it

    def before_iterators(self, loaders: Sequence[Any]) -> None:
        """Saves the random state, just before the iterators of `loaders` are made."""
        self._loaders = list(loaders)
        self._lengths = [_length(loader) for loader in loaders]
        self._iterators, self._passes, self._restored = random_state(generators(loaders)), {}, {}

    def before_batch(self, number: int, ahead: bool) -> None:
        """Saves the random state, or restores the saved one, if batch `number` is the first of a pass over a loader.

        Args:
            number: counted from 0.
            ahead: whether the batch is fetched before the one before it is trained on.
        """
        starting = [i for i, length in enumerate(self._lengths) if number % length == 0] + [AHEAD] * ahead
        if starting:
            if number in self._restored:
                restore_random_state(self._restored[number], generators(self._loaders))
            state = random_state(generators(self._loaders))
            self._passes |= dict.fromkeys(starting, (number, state))

    def state_dict(self) -> dict[str, Any]:
        return {"iterators": self._iterators, "passes": self._passes}

    def load_state_dict(self, state: dict[str, Any], loaders: Sequence[Any]) -> None:
        """Restores the random state of the epoch's start: the iterators of `loaders` are to be made again next."""
        restore_random_state(state["iterators"], generators(loaders))
        self.before_iterators(loaders)
        self._restored = dict(state["passes"].values())


def generators(loaders: Iterable[Any]) -> list[torch.Generator]:
    """Returns the generators that DataLoaders and their samplers draw from, other than the global ones."""
    found: dict[int, torch.Generator] = {}
    for loader in loaders:
        batch_sampler = getattr(loader, "batch_sampler", None)
        owners = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
        for generator in (getattr(owner, "generator", None) for owner in owners):
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())


def inexact(loaders: Iterable[Any], epoch: int) -> Iterator[str]:
    """Yields what no random state restores, and so may differ when a run resumes in `epoch`, counted from 0."""
    for loader in loaders:
        dataset = getattr(loader, "dataset", loader)
        if isinstance(dataset, IterableDataset | Iterator):
            yield (
                f"{type(dataset).__name__} is read from its start again; what it keeps in itself is not restored,"
                " unless its loader has state_dict and load_state_dict"
            )
        if getattr(loader, "persistent_workers", False) and epoch > 0:
            yield "persistent_workers=True: random numbers that samples draw, since the workers are other ones"
        if not getattr(loader, "in_order", True):
            yield "in_order=False: the order of the batches"


def _length(loader: Any) -> float:
    try:
        return max(1, len(loader))
    except (TypeError, NotImplementedError):  # as Lightning asks for it
        return float("inf")
