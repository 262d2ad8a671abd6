"""Suggests the right name for a misspelt one."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns `; did you mean …?` with the known name closest to `name`, or an empty string.

    A dotted name that ends in `name` is closest: `optimizer.lr` for `lr`.

    Args:
        name: as it was written.
        known: the right ones.
        cutoff: how close it must be, see `difflib.get_close_matches`.
    """
    names = list(known)
    ending = [other for other in names if other.endswith(f".{name}")]
    match = ending or get_close_matches(name, names, n=1, cutoff=cutoff)
    return f"; did you mean {match[0]}?" if match else ""
