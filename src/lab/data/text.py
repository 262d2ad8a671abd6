"""Serves text as bytes: from a Markov source, whose entropy rate is known, or from a file."""

import logging
from bisect import bisect
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from lab.data.tensors import Batch, Key, TensorDataModule, generator
from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import FilePath, PositiveFloat, PositiveInt, Seed

log = logging.getLogger(__name__)

SYMBOLS = b"\nabcdefghijklmnopqrstuvwxyz .,;:!?-ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class Text(TensorDataModule):
    """Serves tokens (B, T) and the tokens that follow (B, T), all bytes, in [0, 256).

    Without a `path` they come from a Markov chain over `num_symbols` characters: the next depends on the last one
    alone, by a matrix whose rows are drawn from a Dirichlet distribution. No model can predict them better than to the
    entropy rate, -sum_i p_i sum_j P_ij log P_ij, where p is the stationary distribution: that is `optimal_metrics`.

    The text is split in its order: the last tenth is the test, the tenth before it validation. Each epoch cuts the
    training part into windows at other places.

    Args:
        context_length: T, tokens that a model sees.
        path: of a text of your own, of which every byte is a token.
        num_symbols: characters of the source.
        concentration: of the Dirichlet distribution; the smaller, the more predictable the text.
        num_tokens: length of the text that the source makes.
        seed: of the matrix and the text.
        eval_batch_size: windows of one evaluation batch on each rank.
        **loading: see `TensorDataModule`.

    Attributes:
        vocabulary: the bytes that occur in the training part, ascending; none before `setup`.

    Source: Cover and Thomas, Elements of Information Theory, equation 4.27.
    """

    def __init__(
        self,
        context_length: PositiveInt = 64,
        path: FilePath | None = None,
        num_symbols: Annotated[int, Interval(ge=2, le=len(SYMBOLS))] = 27,
        concentration: PositiveFloat = 0.3,
        num_tokens: PositiveInt = 2_000_000,
        seed: Seed = 0,
        eval_batch_size: PositiveInt = 500,
        **loading: Any,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **loading)
        self.context_length = context_length
        self.path = path
        self.num_symbols = num_symbols
        self.concentration = concentration
        self.num_tokens = num_tokens
        self.seed = seed
        self.tokens = torch.empty(0, dtype=torch.uint8)  # training, validation, test, one after the other
        self._train_end = 0
        self.vocabulary: list[int] = []

    @property
    def source(self) -> Path | None:
        return None if self.path is None else Path(self.path)

    @property
    def preparation(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary}

    def restore(self, preparation: dict[str, Any]) -> None:
        self.vocabulary = preparation["vocabulary"]

    @property
    def transitions(self) -> Tensor:
        """Returns the source's matrix P (num_symbols, num_symbols), float64: row i has what follows symbol i."""
        concentrations = np.full(self.num_symbols, self.concentration)
        return torch.from_numpy(np.random.default_rng(self.seed).dirichlet(concentrations, self.num_symbols))

    @property
    def stationary(self) -> Tensor:
        """Returns how often the source emits each symbol in the long run (num_symbols,): the p with p P = p."""
        equations = torch.cat([self.transitions.T - torch.eye(self.num_symbols), torch.ones(1, self.num_symbols)])
        right = torch.zeros(self.num_symbols + 1, 1, dtype=torch.float64)
        right[-1] = 1
        return torch.linalg.lstsq(equations, right).solution.squeeze(1)

    @property
    def entropy_rate(self) -> float:
        """Returns the entropy rate of the source, in nats per token."""
        return float(self.stationary @ torch.special.entr(self.transitions).sum(1))

    @property
    def optimal_metrics(self) -> dict[str, float]:
        return {"test/loss": self.entropy_rate} if self.path is None else {}

    def load(self) -> dict[str, Batch]:
        text = self._emit() if self.path is None else np.fromfile(self.path, dtype=np.uint8)
        self.tokens = torch.from_numpy(text)
        edges = [len(text) * tenths // 10 for tenths in (0, 8, 9, 10)]
        self._train_end = edges[1]
        starts: dict[str, Batch] = {}
        for name, (first, end) in zip(("train", "val", "test"), pairwise(edges), strict=True):
            if end - first <= self.context_length:
                raise UserError(
                    f"{self.path or 'the text'}: its {name} part has {end - first} bytes, and"
                    f" context_length={self.context_length} needs at least {self.context_length + 1}:"
                    " give a longer text or a smaller one"
                )
            starts[name] = (torch.arange(first, end - self.context_length, self.context_length),)
        if not self.vocabulary:
            self.vocabulary = np.unique(text[: self._train_end]).tolist()
        return starts

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.tokens = self.tokens.to(self.splits["train"][0].device)

    def train_transform(self, batch: Batch, key: Key) -> Batch:
        seed, epoch, *_ = key
        shift = torch.randint(self.context_length, (), generator=generator(seed, epoch)).item()
        return self._windows((batch[0] + shift).clamp(max=self._train_end - self.context_length - 1))

    def eval_transform(self, batch: Batch, key: Key) -> Batch:
        return self._windows(batch[0])

    def _windows(self, starts: Tensor) -> Batch:
        """Cuts windows that begin at `starts` (B,), and those one token later: (B, T) each."""
        offsets = torch.arange(self.context_length + 1, device=starts.device)
        windows = self.tokens[starts.unsqueeze(1) + offsets].long()  # (B, T + 1)
        return windows[:, :-1], windows[:, 1:]

    def encode(self, text: str) -> Tensor:
        """Returns the tokens (T,) of `text`; warns of characters that the training part lacks."""
        if self.vocabulary and (new := sorted({c for c in text if not {*c.encode()} <= {*self.vocabulary}})):
            log.warning("note: the run's text holds no %s", " ".join(map(repr, new)))
        return torch.tensor(list(text.encode()), dtype=torch.long)

    def decode(self, tokens: Tensor) -> str:
        """Returns the text of `tokens` (T,)."""
        return bytes(tokens.tolist()).decode(errors="replace")

    def _emit(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Draws a walk through the chain: bytes (num_tokens,)."""
        ends = self.transitions.cumsum(1).tolist()
        state, walk = 0, []
        for draw in np.random.default_rng([self.seed, 1]).random(self.num_tokens).tolist():
            state = min(bisect(ends[state], draw), self.num_symbols - 1)  # rows may end a hair below 1
            walk.append(SYMBOLS[state])
        return np.array(walk, dtype=np.uint8)
