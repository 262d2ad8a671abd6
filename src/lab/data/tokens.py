"""Serves windows of a long row of tokens, which may be a file larger than memory."""

from abc import abstractmethod
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from lab.data.draws import Draws
from lab.data.tensors import Batch, TensorDataModule, generator
from lab.data.token_file import MEANING, SPLITS, map_tokens, read_meaning
from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import FilePath, PositiveInt


class TokenWindows(TensorDataModule):
    """Serves tokens (B, T) and the tokens that follow (B, T); a dataset adds `read`.

    The tokens are split in their order: the last tenth is the test, the tenth before it validation. Each epoch cuts
    the training part into windows at other places. Windows are views: what `read` maps from a file stays there.

    Args:
        context_length: T, tokens that a model sees.
        eval_batch_size: windows of one evaluation batch on each rank.
        **loading: see `TensorDataModule`.

    Attributes:
        tokens: (N,) training, validation, test, one after the other; none before `setup`.
    """

    def __init__(self, context_length: PositiveInt = 64, eval_batch_size: PositiveInt = 500, **loading: Any) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **loading)
        self.context_length = context_length
        self.tokens = torch.empty(0, dtype=torch.uint8)

    @abstractmethod
    def read(self) -> NDArray[Any]:
        """Returns the tokens (N,), unsigned integers."""

    def load(self) -> dict[str, Batch]:
        self.tokens = from_dlpack(self.read())  # shares memory, also with a file that is read only
        edges = [len(self.tokens) * tenths // 10 for tenths in (0, 8, 9, 10)]
        step = self.context_length
        windows: dict[str, Batch] = {}
        # A training window begins anywhere in the first half of its row
        for name, (start, end), length in zip(
            ("train", "val", "test"), pairwise(edges), (2 * step, step + 1, step + 1), strict=True
        ):
            if end - start < length:
                raise UserError(
                    f"{self.source or 'the text'}: its {name} part has {end - start} tokens, and"
                    f" context_length={step} needs at least {length}: give more tokens or a smaller one"
                )
            windows[name] = (self.tokens[start:end].unfold(0, length, step),)  # (windows, length)
        return windows

    def train_transform(self, batch: Batch, draws: Draws) -> Batch:
        shift = int(torch.randint(self.context_length, (), generator=generator(*draws.key)))  # of all: seed and epoch
        return self.eval_transform((batch[0][:, shift : shift + self.context_length + 1],), draws)

    def eval_transform(self, batch: Batch, draws: Draws) -> Batch:
        windows = batch[0].long()  # (B, T + 1)
        return windows[:, :-1], windows[:, 1:]


class Tokens(TokenWindows):
    """Serves a token file, see `lab.data.token_file`: data=tokens data.path=FILE.npy

    Args:
        path: of the file; `scripts/make_tokens.py` makes one of texts.
        context_length: T, tokens that a model sees.
        eval_batch_size: windows of one evaluation batch on each rank.
        **loading: see `TensorDataModule`.

    Attributes:
        meaning: of the tokens, see `read_meaning`; none before `setup`.
    """

    def __init__(
        self, path: FilePath, context_length: PositiveInt = 64, eval_batch_size: PositiveInt = 500, **loading: Any
    ) -> None:
        super().__init__(context_length=context_length, eval_batch_size=eval_batch_size, **loading)
        self.path = path
        self.meaning: dict[str, Any] = {}

    @property
    def source(self) -> Path:
        return Path(self.path)

    @property
    def preparation(self) -> dict[str, Any]:
        return self.meaning

    def restore(self, preparation: dict[str, Any]) -> None:
        self._check(self.meaning or preparation, preparation)
        self.meaning = preparation

    def read(self) -> NDArray[np.unsignedinteger[Any]]:
        read = read_meaning(self.source)
        meaning = {key: read[key] for key in MEANING if key in read}
        self._check(meaning, self.meaning or meaning)
        self.meaning = meaning
        return map_tokens(self.source)

    def _check(self, meaning: dict[str, Any], of_run: dict[str, Any]) -> None:
        """Refuses a file whose tokens do not mean what those of the run do."""
        for key in MEANING:
            now, then = meaning.get(key), of_run.get(key)
            if key == "vocabulary" and now and then:
                now, then = next(((a, b) for a, b in zip(now, then, strict=True) if a != b), (now, now))
            if now != then:
                raise UserError(
                    f"{self.path} has another vocabulary than the run: {key} {now!r}, and the run's {then!r}"
                )

    @property
    def encode(self) -> Callable[[str], Tensor]:
        """Returns a function that makes tokens (T,) of a text; lacks where the tokens of the file have no text."""
        number = {piece: i for i, piece in enumerate(self._vocabulary)}
        split = SPLITS[self.meaning["split"]]
        return lambda text: torch.tensor([number.get(piece, 0) for piece in split.findall(text)], dtype=torch.long)

    @property
    def decode(self) -> Callable[[Tensor], str]:
        """Returns a function that makes a text of tokens (T,); lacks where the tokens of the file have no text."""
        vocabulary = self._vocabulary
        return lambda tokens: "".join(vocabulary[token] for token in tokens.tolist())

    @property
    def _vocabulary(self) -> list[str]:
        if "vocabulary" not in self.meaning:
            raise AttributeError("no vocabulary says which text the tokens are")  # models look with hasattr
        vocabulary: list[str] = self.meaning["vocabulary"]
        return vocabulary
