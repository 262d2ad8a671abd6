"""Draws random numbers for each sample of a batch by itself, so that they do not depend on who else is in the batch."""

import math
from functools import cached_property

import torch
from torch import Tensor

from lab.engine.utils.random_state import key_seed

# Constants of SplitMix64, as signed numbers of 64 bits, whose products wrap
GAMMA, FIRST, SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
BITS = 52  # of a number in (0, 1): one more half fits into its float


class Draws:
    """Draws random numbers for each of B samples: they depend on the key and the sample's number alone.

    So they are the same whatever ranks, devices (but for rounding) and batches the samples are dealt to. Each call
    draws new ones; a sample's numbers come in one order, whether they are drawn at once or in several calls.

    Args:
        samples: (B,) their numbers, on the device to draw on.
        *key: whole numbers, none negative: a seed, an epoch, ...

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011: a hash of a counter; the hash and its
        constants from Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014.
    """

    def __init__(self, samples: Tensor, *key: int) -> None:
        # Apple's GPUs lack doubles
        self.samples = samples.to("cpu" if samples.device.type == "mps" else samples.device, torch.int64)
        self.key = key
        self._drawn = 0  # of each sample

    def uniform(self, *shape: int) -> Tensor:
        """Returns numbers (B, *shape) between 0 and 1, in double precision; neither is among them."""
        start, self._drawn = self._drawn, self._drawn + math.prod(shape)
        counter = torch.arange(start, self._drawn, device=self.samples.device)
        bits = _hash(self._streams.unsqueeze(1) + counter * GAMMA)  # (B, numbers)
        return ((_shift(bits, 64 - BITS).double() + 0.5) * 2.0**-BITS).view(-1, *shape)

    @cached_property
    def _streams(self) -> Tensor:
        """Where each sample's numbers begin (B,); computed once something is drawn."""
        seed = key_seed(*self.key, 1) - 2**63  # 1 ends the key: zeros at an end do not count
        return _hash(self.samples * GAMMA + seed)

    def normal(self, *shape: int) -> Tensor:
        """Returns standard normal numbers (B, *shape), in double precision."""
        return math.sqrt(2) * torch.erfinv(2 * self.uniform(*shape) - 1)

    def split(self, size: int) -> "list[Draws]":
        """Returns the draws of at most `size` samples each, in order; they begin anew."""
        return [Draws(samples, *self.key) for samples in self.samples.split(size)]


def _hash(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * FIRST
    x = (x ^ _shift(x, 27)) * SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, places: int) -> Tensor:
    """Shifts whole numbers of 64 bits to the right, zeros coming in: torch's own shift repeats the sign."""
    return x >> places & 2 ** (64 - places) - 1
