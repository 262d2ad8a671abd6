"""A small modern convolutional net."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lab.models.classifier import Classifier


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU; keeps height and width."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class CNN(Classifier):
    """Stages of one convolution block each, halved by max-pooling in between, averaged over space at the end.

    Args:
        image: (channels, height, width) of the input; every stage but the last halves height and width.
        num_classes: K.
        channels: feature maps of each stage.
        dropout: probability of dropping a feature before the last layer, in [0, 1).
        **task: see `Classifier`.

    Source: the plain net of Simonyan and Zisserman 2015 with the batch norm of Ioffe and Szegedy 2015 and the global
    average pooling of Lin, Chen and Yan, Network in Network, 2014, section 3.2.
    """

    def __init__(
        self,
        image: Sequence[int] = (1, 28, 28),
        num_classes: int = 10,
        channels: Sequence[int] = (16, 32, 64),
        dropout: float = 0.0,
        **task: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **task)
        in_channels, height, width = image
        if not channels or min(channels) < 1:
            raise ValueError(f"channels={list(channels)}: at least one stage, each of at least one channel")
        if min(height, width) >> (len(channels) - 1) < 1:
            raise ValueError(f"image={list(image)} cannot be halved {len(channels) - 1} times: give fewer channels")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: a probability below 1 is needed")

        stages: list[nn.Module] = []
        for i, out_channels in enumerate(channels):
            if i > 0:
                stages.append(nn.MaxPool2d(2))
            stages.append(conv_block(in_channels, out_channels))
            in_channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x)  # (B, C, H, W) -> (B, channels[-1], H / 2^(n-1), W / 2^(n-1))
        x = self.pool(x).flatten(1)  # -> (B, channels[-1])
        return self.head(self.dropout(x))  # -> (B, K)
