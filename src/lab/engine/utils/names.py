"""Finds the name that a misspelt one was meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `; did you mean …?` with the known name closest to `word`, or an empty string."""
    match = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""
