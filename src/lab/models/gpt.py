"""Defines GPT, a decoder-only transformer.

Shapes: B batch, T tokens, D numbers for each token (embed_dim), H heads, d = D / H numbers in one head, V vocabulary.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.engine.utils.ranges import AtLeastTwo, PositiveInt, Probability
from lab.models.attention import Cache, blocks, rotations
from lab.models.tasks.language_modeling import LanguageModel


class GPT(LanguageModel):
    """Decoder-only transformer; the matrix that embeds tokens also computes the logits.

    Args:
        vocab_size: V.
        context_length: the most tokens it reads.
        embed_dim: D.
        num_layers: blocks.
        num_heads: see `Attention`.
        dropout: see `Block`; of the embedding as well.
        position_encoding: `learned`, one vector for each, or `rotary`.
        **task: see `LanguageModel`.

    Source: Radford et al. 2018 and 2019; tied embeddings: Press and Wolf 2017; rotary: Su et al. 2021.
    """

    rotations: Tensor | None

    def __init__(
        self,
        vocab_size: AtLeastTwo = 256,
        context_length: PositiveInt = 64,
        embed_dim: PositiveInt = 64,
        num_layers: PositiveInt = 2,
        num_heads: PositiveInt = 4,
        dropout: Probability = 0.0,
        position_encoding: Literal["learned", "rotary"] = "rotary",
        **task: Any,
    ) -> None:
        super().__init__(vocab_size=vocab_size, context_length=context_length, **task)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = blocks(num_layers, embed_dim, num_heads, dropout, causal=True)
        self.norm = nn.LayerNorm(embed_dim)
        learned = position_encoding == "learned"
        self.positions = nn.Parameter(0.02 * torch.randn(context_length, embed_dim)) if learned else None
        self.register_buffer(
            "rotations", None if learned else rotations(context_length, embed_dim // num_heads), persistent=False
        )

    def make_cache(self) -> list[Cache]:
        return [Cache() for _ in self.blocks]

    def forward(self, tokens: Tensor, cache: list[Cache] | None = None) -> Tensor:
        start = len(cache[0]) if cache else 0
        here = slice(start, start + tokens.shape[1])
        x = self.embedding(tokens)  # (B, T) -> (B, T, D)
        if self.positions is not None:
            x = x + self.positions[here]
        # Sliced one by one: whatever T is they are contiguous, and so one exported graph serves all
        rotation = None if self.rotations is None else [table[here] for table in self.rotations]  # twice (T, d/2)
        x = self.dropout(x)
        for i, block in enumerate(self.blocks):
            x = block(x, rotation, cache[i] if cache else None)
        return F.linear(self.norm(x), self.embedding.weight)  # (B, T, D) -> (B, T, V)
