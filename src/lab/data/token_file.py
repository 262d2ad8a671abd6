"""Reads token files: whole numbers in a file `.npy`, mapped into memory, and what they mean in a `.json` beside it.

Works without torch, so that errors in a file are reported at once.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.engine.utils.errors import UserError
from lab.engine.utils.files import check_file

# How `scripts/make_tokens.py` splits a text; the pieces of a text are the text again
SPLITS = {"characters": re.compile(r"(?s)."), "words": re.compile(r" ?\w+|\s|[^\w\s]")}
UNKNOWN = "\ufffd"  # token 0, which stands for every piece that is not in the vocabulary
MEANING = ("vocab_size", "split", "vocabulary")  # what two files have in common whose tokens mean the same


def vocab_size(path: Any) -> int:
    """Returns how many different tokens the file at `path` may hold."""
    size: int = read_meaning(Path(str(path)))["vocab_size"]
    return size


def read_meaning(path: Path) -> dict[str, Any]:
    """Reads the `.json` beside a token file.

    Returns:
        `vocab_size`, tokens are below it. Of files that `scripts/make_tokens.py` made also `split`, one of `SPLITS`,
        `vocabulary`, the piece of text that each token stands for, and `num_tokens`.

    Raises:
        UserError: when one of the two files lacks, or is something else.
    """
    check_file(path)
    if path.suffix != ".npy":
        raise UserError(
            f"data.path={path} is no token file (.npy): scripts/make_tokens.py in={path} makes one of a text, and"
            " data=text reads the text as bytes"
        )
    beside = path.with_suffix(".json")
    example = '{"vocab_size": 50257}'
    if not beside.is_file():
        raise UserError(f"{beside}: no such file; it says how many different tokens {path.name} may hold: {example}")
    try:
        meaning: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
        valid = type(meaning["vocab_size"]) is int and meaning["vocab_size"] > 1
        vocabulary, split = meaning.get("vocabulary"), meaning.get("split")
        if vocabulary is not None or split is not None:
            pieces = [piece for piece in vocabulary or () if isinstance(piece, str)]
            valid &= split in SPLITS and len(pieces) == len(vocabulary or ()) == meaning["vocab_size"]
    except (ValueError, TypeError, KeyError):
        valid = False
    if not valid:
        raise UserError(f"{beside} does not say how many different tokens there are: it is to hold {example}")
    return meaning


def map_tokens(path: Path) -> NDArray[Any]:
    """Maps the tokens (N,) of a file into memory, read only: it may be larger than that.

    Raises:
        UserError: when it holds something else, or tokens that its vocabulary lacks.
    """
    meaning = read_meaning(path)
    try:
        tokens = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"data.path={path} cannot be read as .npy: {str(error).splitlines()[0]}") from error
    if tokens.ndim != 1 or tokens.dtype.kind != "u":
        raise UserError(
            f"data.path={path} holds {tokens.dtype} of shape {tokens.shape}: tokens are uint8, uint16 or uint32 (N,)"
        )
    if len(tokens) != meaning.get("num_tokens", len(tokens)):
        raise UserError(
            f"{path} has {len(tokens)} tokens, and {path.with_suffix('.json').name} beside it was made for"
            f" {meaning['num_tokens']}: make both again"
        )
    size = meaning["vocab_size"]
    # A pass over the file, at the speed of the memory or the disk, where the type of the numbers does not settle it
    if len(tokens) and np.iinfo(tokens.dtype).max >= size and (largest := int(tokens.max())) >= size:
        raise UserError(
            f"{path} holds the token {largest}, and its vocabulary has vocab_size={size}"
            f" ({path.with_suffix('.json').name}): it was made with another vocabulary"
        )
    return tokens
