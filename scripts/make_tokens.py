"""Makes a token file of texts: python scripts/make_tokens.py in=book.txt|'books/*.txt' out=tokens.npy

    split=words          or characters: the pieces that tokens stand for
    vocab_size=8000      at most so many different tokens: the most frequent ones, and one for all others

Texts are UTF-8, are read in chunks, and are put one after the other. The `.json` beside the file holds the vocabulary.
Train on it: python src/train.py data=tokens data.path=tokens.npy model=gpt
"""

from lab.engine.cli.start import start

if __name__ == "__main__":
    start()

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path

import numpy as np

from lab.data.token_file import SPLITS, UNKNOWN
from lab.engine.cli.errors import script
from lab.engine.utils.arguments import parse_arguments
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import atomic_write, check_file
from lab.engine.utils.names import nearest

CHUNK = 2**20  # characters


def main(argv: list[str]) -> None:
    arguments, more = parse_arguments(argv, {"in": "", "out": "tokens.npy", "split": "words", "vocab_size": "8000"})
    given, out, split, size = arguments["in"], Path(arguments["out"]), arguments["split"], arguments["vocab_size"]
    for name in (argument.partition("=")[0] for argument in more):
        raise UserError(f"{name}: no such argument{nearest(name, arguments)}\nit takes: {', '.join(arguments)}")
    if not given:
        raise UserError("in= takes a text, or a pattern of texts: in=book.txt")
    if split not in SPLITS:
        raise UserError(f"split={split}{nearest(split, SPLITS)}: expected {' or '.join(SPLITS)}")
    if not size.isdecimal() or not 2 <= int(size) <= 2**32:
        raise UserError(f"vocab_size={size}: expected a whole number from 2")
    if out.suffix != ".npy" or not out.parent.is_dir():
        raise UserError(f"out={out}: expected a file .npy in a folder that is there")
    paths = sorted(map(Path, glob(given, recursive=True))) if has_magic(given) else [Path(given)]
    for path in paths:
        check_file(path, "in")
    vocabulary, number = make_tokens(paths, out, split, int(size))
    print(f"written to {out}: {number:,} tokens, {len(vocabulary):,} different ones")


def make_tokens(
    paths: Sequence[Path], out: Path, split: str, vocab_size: int, chunk: int = CHUNK
) -> tuple[list[str], int]:
    """Writes the tokens of texts to `out`, and what they mean to a `.json` beside it: both whole, or neither.

    Args:
        paths: of the texts.
        out: a path `.npy`.
        split: see `SPLITS`.
        vocab_size: the most different tokens; token 0 stands for every piece beyond.
        chunk: characters that are read at a time.

    Returns:
        The vocabulary, and the number of tokens.
    """
    frequency: Counter[str] = Counter()
    for pieces in _pieces(paths, SPLITS[split], chunk):
        frequency.update(pieces)
    vocabulary = [UNKNOWN, *(piece for piece, _ in frequency.most_common(vocab_size - 1))]
    number = {piece: i for i, piece in enumerate(vocabulary)}
    total = frequency.total()
    if not total:
        raise UserError(f"in={', '.join(map(str, paths)) or 'the pattern'}: no text is there")
    with atomic_write(out) as partial, atomic_write(out.with_suffix(".json")) as beside:
        meaning = {"vocab_size": len(vocabulary), "num_tokens": total, "split": split, "vocabulary": vocabulary}
        beside.write_text(json.dumps(meaning) + "\n", encoding="utf-8")
        with partial.open("wb") as file:
            dtype = np.min_scalar_type(len(vocabulary) - 1)
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (total,)}
            np.lib.format.write_array_header_1_0(file, header)
            for pieces in _pieces(paths, SPLITS[split], chunk):
                np.fromiter((number.get(piece, 0) for piece in pieces), dtype, len(pieces)).tofile(file)
    return vocabulary, total


def _pieces(paths: Sequence[Path], pattern: re.Pattern[str], chunk: int) -> Iterator[list[str]]:
    """Yields the pieces of texts, some at a time, as if the texts were one."""
    rest: list[str] = []
    for path in paths:
        try:
            with path.open(encoding="utf-8", newline="") as file:
                while text := file.read(chunk):
                    *pieces, last = pattern.findall("".join(rest) + text)
                    yield pieces
                    rest = [last]  # may go on in the next chunk
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is no text in UTF-8: {error.reason}; data=text reads any file as bytes") from error
    yield rest


if __name__ == "__main__":
    script(main)
