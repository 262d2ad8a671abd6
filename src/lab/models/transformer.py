"""Transformers: one block, which reads images as patches (ViT) and writes tokens (GPT).

Shapes: B batch, T tokens, D width, H heads, d = D / H numbers in one head, V vocabulary.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.models.classifier import Classifier
from lab.models.language_model import LanguageModel

Rotation = Tensor | Sequence[Tensor]  # cosines and sines (T, d/2)


class Cache:
    """The keys and values that one layer has seen, so that no token is read twice."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None  # (B, H, S, d), S tokens so far
        self.values: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, with the new ones (B, H, T, d) at the end."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class Attention(nn.Module):
    """Multi-head self-attention: softmax(Q K^T / sqrt(d)) V in each head.

    Args:
        width: D, a multiple of `num_heads`.
        num_heads: H.
        dropout: probability of dropping an attention weight, in [0, 1).
        causal: whether a token sees only itself and those before it.

    Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, width: int, num_heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"width={width}, num_heads={num_heads}: the width must be a multiple of the heads")
        self.num_heads = num_heads
        self.dropout = dropout
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Rotation | None = None, cache: Cache | None = None) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))  # (B, T, D) -> (B, T, 3, H, d)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # -> (3, B, H, T, d)
        q, k = qkv[:2] if rotation is None else rotate(qkv[:2], rotation)
        v, mask, causal = qkv[2], None, self.causal
        if cache is not None:
            k, v = cache.append(k, v)  # -> (B, H, S, d)
            new, seen = q.shape[2], k.shape[2]
            causal = causal and new == seen
            if self.causal and 1 < new < seen:
                mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, H, T, d) -> (B, T, D)


def rotations(context: int, size: int) -> Tensor:
    """Cosines and sines (2, context, size / 2) of each position times 10000^(-2i / size), i counting pairs of numbers.

    Raises:
        ValueError: when `size` is odd.

    Source: Su et al. 2021, section 3.2.2.
    """
    if size % 2:
        raise ValueError(f"rotary positions turn pairs of numbers, so width / num_heads must be even, not {size}")
    rates = 10_000 ** (-torch.arange(0, size, 2) / size)  # (size / 2,)
    angles = torch.arange(context).unsqueeze(1) * rates  # (context, size / 2)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turns each pair of numbers (i, i + d/2) of queries or keys (..., T, d) by `rotation`, twice (T, d/2).

    Source: Su et al. 2021, equation 34.
    """
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Block(nn.Module):
    """Attention, then two layers on each token, each added to what it read, normalised before (Xiong et al. 2020).

    Args:
        width: D.
        num_heads: see `Attention`.
        dropout: probability of dropping a number of what is added, in [0, 1), and an attention weight.
        causal: see `Attention`.
    """

    def __init__(self, width: int, num_heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, dropout, causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: Rotation | None = None, cache: Cache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), rotation, cache))  # (B, T, D)
        x = x + self.dropout(self.mlp(self.norm2(x)))  # (B, T, 4 * D) within
        return x


def blocks(num_layers: int, width: int, num_heads: int, dropout: float, causal: bool) -> nn.ModuleList:
    """The layers of both, with GPT-2's start: every weight normal with 0.02, what is added smaller by sqrt(2 layers).

    Source: Radford et al. 2019, section 2.3.
    """
    if num_layers < 1 or width < 1:
        raise ValueError(f"num_layers={num_layers}, width={width}: at least one of each")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: a probability below 1 is needed")
    layers = nn.ModuleList(Block(width, num_heads, dropout, causal) for _ in range(num_layers))
    for name, parameter in layers.named_parameters():
        if parameter.ndim == 2:
            added = name.endswith(("attention.out.weight", "mlp.2.weight"))
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * num_layers) if added else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return layers


class ViT(Classifier):
    """Vision transformer: patches become tokens, and the class token, or the mean of all, becomes the class.

    Args:
        image: (channels, height, width) of the input; height and width are multiples of `patch_size`.
        num_classes: C.
        patch_size: P, side of a patch in pixels.
        width: D.
        num_layers: blocks.
        num_heads: see `Attention`.
        dropout: see `Block`.
        pool: `class_token`, or `mean`.
        **task: see `Classifier`.

    Source: Dosovitskiy et al. 2021, section 3.1; the mean instead of a class token: Beyer, Zhai and Kolesnikov 2022.
    """

    def __init__(
        self,
        image: Sequence[int],
        num_classes: int,
        patch_size: int = 4,
        width: int = 64,
        num_layers: int = 6,
        num_heads: int = 4,
        dropout: float = 0.0,
        pool: Literal["class_token", "mean"] = "mean",
        **task: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **task)
        channels, height, columns = image
        if patch_size < 1 or height % patch_size or columns % patch_size:
            raise ValueError(
                f"image={list(image)}, patch_size={patch_size}: patches must tile the image without a rest"
            )
        tokens = (height // patch_size) * (columns // patch_size) + (pool == "class_token")
        self.pool = pool
        self.patches = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if pool == "class_token" else None
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = blocks(num_layers, width, num_heads, dropout, causal=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, D, H/P, W/P) -> (B, T, D)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)  # (B, T + 1, D)
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        x = x[:, 0] if self.pool == "class_token" else x.mean(dim=1)  # (B, D)
        return self.head(x)  # -> (B, C)


class GPT(LanguageModel):
    """Decoder-only transformer; the matrix that embeds tokens also reads them out.

    Args:
        vocab_size: V.
        context: the most tokens it reads.
        width: D.
        num_layers: blocks.
        num_heads: see `Attention`.
        dropout: see `Block`; of the embedding as well.
        positions: `learned`, one vector for each, or `rotary`.
        **task: see `LanguageModel`.

    Source: Radford et al. 2018 and 2019; tied embeddings: Press and Wolf 2017; rotary: Su et al. 2021.
    """

    rotations: Tensor | None

    def __init__(
        self,
        vocab_size: int,
        context: int,
        width: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
        positions: Literal["learned", "rotary"] = "rotary",
        **task: Any,
    ) -> None:
        super().__init__(vocab_size=vocab_size, context=context, **task)
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = blocks(num_layers, width, num_heads, dropout, causal=True)
        self.norm = nn.LayerNorm(width)
        learned = positions == "learned"
        self.positions = nn.Parameter(0.02 * torch.randn(context, width)) if learned else None
        self.register_buffer("rotations", None if learned else rotations(context, width // num_heads), persistent=False)

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
