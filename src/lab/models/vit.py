"""Defines the vision transformer.

Shapes: B batch, T tokens, D numbers for each token (embed_dim), H heads, d = D / H numbers in one head, V vocabulary.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import AtLeastTwo, ImageShape, PositiveInt, Probability
from lab.models.attention import blocks
from lab.models.tasks.classification import Classifier


class ViT(Classifier):
    """Vision transformer: patches become tokens, and the class token, or the mean of all, gives the logits.

    Args:
        image_shape: (channels, height, width) of the input; height and width are multiples of `patch_size`.
        num_classes: C.
        patch_size: P, side of a patch in pixels.
        embed_dim: D.
        num_layers: blocks.
        num_heads: see `Attention`.
        dropout: see `Block`.
        pool: `class_token`, or `mean`.
        **task: see `Classifier`.

    Source: Dosovitskiy et al. 2021, section 3.1; the mean instead of a class token: Beyer, Zhai and Kolesnikov 2022.
    """

    def __init__(
        self,
        image_shape: ImageShape = (1, 28, 28),
        num_classes: AtLeastTwo = 10,
        patch_size: PositiveInt = 4,
        embed_dim: PositiveInt = 64,
        num_layers: PositiveInt = 6,
        num_heads: PositiveInt = 4,
        dropout: Probability = 0.0,
        pool: Literal["class_token", "mean"] = "mean",
        **task: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **task)
        channels, height, columns = image_shape
        if height % patch_size or columns % patch_size:
            raise UserError(
                f"image_shape={list(image_shape)}, patch_size={patch_size}: patches must tile the image without a rest"
            )
        tokens = (height // patch_size) * (columns // patch_size) + (pool == "class_token")
        self.pool = pool
        self.patches = nn.Conv2d(channels, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if pool == "class_token" else None
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, embed_dim))
        self.blocks = blocks(num_layers, embed_dim, num_heads, dropout, causal=False)
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)

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
