"""Defines attention, and the block of a transformer.

Shapes: B batch, T tokens, D numbers for each token (embed_dim), H heads, d = D / H numbers in one head, V vocabulary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import PositiveInt, Probability

Rotation = Tensor | Sequence[Tensor]  # cosines and sines (T, d/2)


class Cache:
    """Holds the keys and values that one layer has computed, so that no token is read twice."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None  # (B, H, S, d), S tokens so far
        self.values: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends new keys and values (B, H, T, d), and returns all of them."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class Attention(nn.Module):
    """Multi-head self-attention: softmax(Q K^T / sqrt(d)) V in each head.

    Args:
        embed_dim: D, a multiple of `num_heads`.
        num_heads: H.
        dropout: probability of dropping an attention weight.
        causal: whether a token sees only itself and those before it.

    Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, embed_dim: PositiveInt, num_heads: PositiveInt, dropout: Probability, causal: bool) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise UserError(f"embed_dim={embed_dim}, num_heads={num_heads}: embed_dim must be a multiple of num_heads")
        self.num_heads = num_heads
        self.dropout = dropout
        self.causal = causal
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)

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
    """Returns cosines and sines (2, context, size / 2) of position times 10000^(-2i / size), i the pair of numbers.

    Raises:
        UserError: when `size` is odd.

    Source: Su et al. 2021, section 3.2.2.
    """
    if size % 2:
        raise UserError(f"rotary positions turn pairs of numbers, so embed_dim / num_heads must be even, not {size}")
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
    """Transformer block: attention, then two layers on each token, both with pre-norm (Xiong et al. 2020) and residual.

    Args:
        embed_dim: D.
        num_heads: see `Attention`.
        dropout: probability of dropping a number of what is added, and an attention weight.
        causal: see `Attention`.
    """

    def __init__(self, embed_dim: PositiveInt, num_heads: PositiveInt, dropout: Probability, causal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention = Attention(embed_dim, num_heads, dropout, causal)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = nn.Sequential(nn.Linear(embed_dim, 4 * embed_dim), nn.GELU(), nn.Linear(4 * embed_dim, embed_dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: Rotation | None = None, cache: Cache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), rotation, cache))  # (B, T, D)
        x = x + self.dropout(self.mlp(self.norm2(x)))  # (B, T, 4 * D) within
        return x


def blocks(
    num_layers: PositiveInt, embed_dim: PositiveInt, num_heads: PositiveInt, dropout: Probability, causal: bool
) -> nn.ModuleList:
    """Makes the blocks, initialised as GPT-2's: weights of deviation 0.02, divided by sqrt(2 layers) before a residual.

    Source: Radford et al. 2019, section 2.3.
    """
    layers = nn.ModuleList(Block(embed_dim, num_heads, dropout, causal) for _ in range(num_layers))
    for name, parameter in layers.named_parameters():
        if parameter.ndim == 2:
            added = name.endswith(("attention.out.weight", "mlp.2.weight"))
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * num_layers) if added else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return layers
