"""Serves text as bytes: from a Markov source, whose entropy rate is known, or from a file."""

import logging
from bisect import bisect
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray
from torch import Tensor

from lab.data.tokens import TokenWindows
from lab.engine.utils.ranges import FilePath, PositiveFloat, PositiveInt, Seed

log = logging.getLogger(__name__)

SYMBOLS = b"\nabcdefghijklmnopqrstuvwxyz .,;:!?-ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SAMPLE, MAX_SAMPLES = 2**20, 256  # bytes, in which the vocabulary is looked for


class Text(TokenWindows):
    """Serves tokens (B, T) and the tokens that follow (B, T), all bytes, in [0, 256).

    Without a `path` they come from a Markov chain over `num_symbols` characters: the next depends on the last one
    alone, by a matrix whose rows are drawn from a Dirichlet distribution. No model can predict them better than to the
    entropy rate, -sum_i p_i sum_j P_ij log P_ij, where p is the stationary distribution: that is `optimal_metrics`.

    A text from a file is mapped into memory, and may be larger than that; see `TokenWindows` for how it is split.

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
        vocabulary: the bytes that occur in the training part, ascending; of one above 256 MiB those in as many samples
            of 1 MiB; none before `setup`.

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
        super().__init__(context_length=context_length, eval_batch_size=eval_batch_size, **loading)
        self.path = path
        self.num_symbols = num_symbols
        self.concentration = concentration
        self.num_tokens = num_tokens
        self.seed = seed
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

    def read(self) -> NDArray[np.uint8]:
        if self.path is None:
            text = self._emit()
        else:
            is_empty = Path(self.path).stat().st_size == 0  # which cannot be mapped
            text = np.empty(0, np.uint8) if is_empty else np.memmap(self.path, np.uint8, "r")
        if not self.vocabulary:
            end = len(text) * 8 // 10
            seen = np.zeros(256, bool)
            for start in np.linspace(0, max(end - SAMPLE, 0), min(-(-end // SAMPLE), MAX_SAMPLES), dtype=int):
                seen[text[start : min(start + SAMPLE, end)]] = True
            self.vocabulary = seen.nonzero()[0].tolist()
        return text

    def encode(self, text: str) -> Tensor:
        """Returns the tokens (T,) of `text`; warns of characters that the training part lacks."""
        if self.vocabulary and (new := sorted({c for c in text if not {*c.encode()} <= {*self.vocabulary}})):
            log.warning("note: the run's text holds no %s", " ".join(map(repr, new)))
        return torch.tensor(list(text.encode()), dtype=torch.long)

    def decode(self, tokens: Tensor) -> str:
        """Returns the text of `tokens` (T,)."""
        return bytes(tokens.tolist()).decode(errors="replace")

    def _emit(self) -> NDArray[np.uint8]:
        """Draws a walk through the chain: bytes (num_tokens,)."""
        ends = self.transitions.cumsum(1).tolist()
        state, walk = 0, []
        for draw in np.random.default_rng([self.seed, 1]).random(self.num_tokens).tolist():
            state = min(bisect(ends[state], draw), self.num_symbols - 1)  # rows may end a hair below 1
            walk.append(SYMBOLS[state])
        return np.array(walk, dtype=np.uint8)
