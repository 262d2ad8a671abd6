"""Saves, restores and seeds the random number generators of a process."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state(generators: Sequence[torch.Generator] = ()) -> dict[str, Any]:
    """Returns the state of each global random number generator, and of `generators`, as tensors and plain values."""
    version, internal, gauss = random.getstate()
    name, keys, *position = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *position],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "generators": [generator.get_state() for generator in generators],
    }


def restore_random_state(state: dict[str, Any], generators: Sequence[torch.Generator] = ()) -> None:
    """Restores every generator to a state that `random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *position = state["numpy"]
    assert isinstance(keys, Tensor)
    np.random.set_state((name, keys.numpy().astype(np.uint32), *position))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    for generator, saved in zip(generators, state["generators"], strict=False):  # a run's loaders may have changed
        generator.set_state(saved)


def key_seed(*key: int) -> int:
    """Returns the seed of a key of whole numbers: equal keys have equal seeds."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seed_random_state(*key: int) -> None:
    """Seeds the global generators of the CPU with a key of whole numbers: equal keys draw equal numbers."""
    seed = key_seed(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds the GPUs as well
