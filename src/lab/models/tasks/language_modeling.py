"""Defines the language-modelling task: next-token cross-entropy, its metrics, and sampling."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric

from lab.data.tensors import IGNORED, Batch, generator
from lab.engine.utils.errors import UserError
from lab.engine.utils.export_spec import ExportSpec
from lab.engine.utils.ranges import AtLeastTwo, PositiveInt
from lab.models.tasks.plots import boards, log_text
from lab.models.tasks.task import Task


class LanguageModel(Task):
    """Learns to predict the next token; an architecture adds layers and a `forward` from tokens to logits.

    Batches are tokens (B, T) and the targets (B, T), each the token that follows, or -100 where none is to be learned.
    `val/loss` is in nats per token, `val/bits_per_token` in bits, `val/ppl` the perplexity, `val/acc` the share of
    tokens whose likeliest guess is right.

    Args:
        vocab_size: tokens are in [0, vocab_size).
        context_length: the most tokens that the model can look at.
        **task: see `Task`.
    """

    def __init__(
        self,
        vocab_size: AtLeastTwo = 256,
        context_length: PositiveInt = 64,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.mean_loss, self.mean_acc = MeanMetric(), MeanMetric()

    @abstractmethod
    def forward(self, tokens: Tensor, cache: Any = None) -> Tensor:
        """Returns logits (B, T, vocab_size) of what follows each of the tokens (B, T).

        With a `cache` from `make_cache`, the tokens are those that follow what it holds already.
        """

    @abstractmethod
    def make_cache(self) -> Any:
        """Makes an empty cache for `forward`."""

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        tokens, targets = batch
        logits = self(tokens)  # (B, T) -> (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        return {"loss": loss + self.penalty()}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        self._log_means("test")

    @torch.inference_mode()
    def generate(
        self,
        prompt: Tensor,
        num_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        use_cache: bool = True,
    ) -> Tensor:
        """Continues a prompt.

        Args:
            prompt: (B, P), at least one token.
            num_tokens: how many to add; with the prompt at most `context_length`.
            temperature: divides the logits; 0 always takes the likeliest token.
            top_k: samples only from so many of the likeliest tokens (Fan, Lewis and Dauphin 2018).
            top_p: samples only from the smallest set of tokens that has this probability (Holtzman et al. 2020).
            seed: of the draws.
            use_cache: keeps keys and values instead of computing them anew for each token; the tokens are the same.

        Returns:
            (B, P + num_tokens), the prompt included.
        """
        if prompt.shape[1] < 1 or prompt.shape[1] + num_tokens > self.context_length:
            raise UserError(
                f"a prompt of {prompt.shape[1]} and {num_tokens} more tokens: there must be a prompt, and together they"
                f" must fit context_length={self.context_length}"
            )
        training = self.training
        self.eval()
        draws = generator(seed)
        cache = self.make_cache() if use_cache else None
        pieces = [prompt]
        for _ in range(num_tokens):
            logits = self(pieces[-1] if use_cache else torch.cat(pieces, dim=1), cache)[:, -1]  # (B, V)
            pieces.append(sample_token(logits, temperature, top_k, top_p, draws).to(prompt).unsqueeze(1))  # (B, 1)
        self.train(training)
        return torch.cat(pieces, dim=1)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Returns the mean loss and accuracy of each sequence, over the targets that count."""
        tokens, targets = batch  # (B, T), (B, T)
        logits = self(tokens)  # (B, T) -> (B, T, V)
        losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")  # (B, T)
        counted = targets != IGNORED
        hits = (logits.argmax(-1) == targets) & counted
        number = counted.sum(1).clamp(min=1)
        return {"loss": losses.sum(1) / number, "acc": hits.sum(1) / number}

    def export_wrapper(self, dims: dict[str, Any]) -> ExportSpec:
        description = "logits of the token that follows each token"
        return ExportSpec(
            self,
            description,
            ("logits",),
            ("tokens",),
            (None,),
            max_length=self.context_length,
            vocab_size=self.vocab_size,
        )

    def complete(self, prompt: str, data: Any, num_tokens: int | None = None, **options: Any) -> str:
        """Continues a text; beyond the context length, each further piece sees the later half of the context.

        Args:
            prompt: a text where `data` can `encode` it, else tokens in words: `0 1 2`.
            data: encodes and decodes.
            num_tokens: how many to add; None for as many as fit into the context.
            **options: see `generate`; the n-th piece beyond the context has the seed plus n.
        """
        tokens, decode = self._encode(prompt, data)
        num_tokens = max(1, self.context_length - len(tokens)) if num_tokens is None else num_tokens
        if num_tokens < 1:
            raise UserError(f"num_tokens={num_tokens}: give a number from 1")
        text, seed, left = tokens.to(self.device), options.pop("seed", 0), num_tokens
        while left:
            seen = text[-max(1, self.context_length // 2) :] if len(text) >= self.context_length else text
            new = min(left, self.context_length - len(seen))
            if not new:
                raise UserError(
                    f"the run's model reads one token at a time (context_length={self.context_length}):"
                    " it continues nothing"
                )
            added = self.generate(seen.unsqueeze(0), new, seed=seed, **options)[0, len(seen) :]
            text, left, seed = torch.cat([text, added]), left - new, seed + 1
        return decode(text.cpu())

    def _encode(self, prompt: str, data: Any) -> tuple[Tensor, Callable[[Tensor], str]]:
        """Returns the tokens (P,) of a prompt, and a function that makes a text of tokens."""
        if hasattr(data, "encode"):
            return data.encode(prompt), data.decode
        tokens = [int(word) if word.isdecimal() else -1 for word in prompt.split()]
        if not tokens or not all(0 <= token < self.vocab_size for token in tokens):
            raise UserError(
                f'prompt={prompt}: the run\'s data is no text: give its tokens, prompt="0 1 2", below {self.vocab_size}'
            )
        return torch.tensor(tokens), lambda text: " ".join(map(str, text.tolist()))

    def _evaluate(self, batch: Batch) -> None:
        tokens, targets = batch
        logits = self(tokens)
        counted = targets != IGNORED
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        hits = (logits.argmax(-1) == targets)[counted]
        self.mean_loss.update(loss, weight=counted.sum())
        self.mean_acc.update(hits.float())

    def _log_means(self, stage: str) -> None:
        loss = self.mean_loss.compute()
        self.log_dict(
            {
                f"{stage}/loss": loss,
                f"{stage}/ppl": loss.exp(),
                f"{stage}/bits_per_token": loss / math.log(2),
                f"{stage}/acc": self.mean_acc.compute(),
            },
            sync_dist=True,  # the same on every rank already, of which a mean would round
            reduce_fx="max",
        )
        self.mean_loss.reset()
        self.mean_acc.reset()
        decode = getattr(self.trainer.datamodule, "decode", None)  # type: ignore[attr-defined]
        if decode is not None and boards(self):
            start = torch.full((1, 1), min(ord("\n"), self.vocab_size - 1), device=self.device)
            log_text(self, f"{stage}/sample", decode(self.generate(start, self.context_length - 1)[0]))


def sample_token(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, draws: torch.Generator
) -> Tensor:
    """Draws one token for each row of `logits` (B, V): (B,). See `LanguageModel.generate`."""
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise UserError(
            f"temperature={temperature}, top_k={top_k}, top_p={top_p}: the first from 0, the second from 1, the third"
            " above 0 and at most 1"
        )
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float().cpu() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p is not None:
        ordered, order = logits.softmax(-1).sort(descending=True)  # (B, V)
        beyond = ordered.cumsum(-1) - ordered >= top_p  # the likelier ones have the probability already
        logits = logits.masked_fill(beyond.gather(-1, order.argsort(-1)), -math.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=draws).squeeze(1)
