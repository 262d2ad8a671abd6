"""Suggests the right name for a misspelt one."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean …?` with the known name closest to `name`, or an empty string.

    A dotted name that ends in `name` is closest: `optimizer.lr` for `lr`.
    """
    names = list(known)
    ending = [other for other in names if other.endswith(f".{name}")]
    match = ending or get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""
