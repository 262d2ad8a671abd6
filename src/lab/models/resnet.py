"""Wraps torchvision's ResNet, an example of a network from elsewhere as a model here."""

from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn

from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import AtLeastTwo, ImageShape
from lab.models.tasks.classification import Classifier

LARGE = 64  # pixels; torchvision's first layers, made for 224, quarter the sides at once


class ResNet(Classifier):
    """Residual network whose first layer keeps the size of a small image, where torchvision's quarters it.

    The names of its layers are torchvision's, so that `weights=` takes a state dict of torchvision's ResNet.

    Args:
        image_shape: (channels, height, width) of the input.
        num_classes: K.
        depth: 18, 34, 50, 101 or 152.
        weights: null, or the name of torchvision's, which are fetched once. Layers whose shapes differ (the first, for
            other channels or small images, and the last, for other classes) start afresh; the first sums its filters
            over the colours where only these differ.
        **task: see `Classifier`.

    Source: He, Zhang, Ren and Sun 2016, table 1; the first layer for small images: section 4.2.
    """

    def __init__(
        self,
        image_shape: ImageShape = (1, 28, 28),
        num_classes: AtLeastTwo = 10,
        depth: Literal[18, 34, 50, 101, 152] = 18,
        weights: Literal["DEFAULT", "IMAGENET1K_V1", "IMAGENET1K_V2"] | None = None,
        **task: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **task)
        self.hparams["weights"] = None  # a checkpoint brings its own
        channels, height, width = image_shape
        net = torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=num_classes)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.avgpool, self.fc = net.avgpool, net.fc
        if min(height, width) < LARGE:
            self.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        elif channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        if self.conv1 is not net.conv1:
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        if weights is not None:
            self._load(weights, depth)
        self.to(memory_format=torch.channels_last)  # faster on CPUs, and on tensor cores

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))  # (B, C, H, W) -> (B, 64, H, W), or half the sides of a large image
        x = self.layer1(self.maxpool(x))  # half of them again if large
        x = self.layer4(self.layer3(self.layer2(x)))  # each halves the sides; 512 maps in the end, 2048 from depth 50
        return self.fc(self.avgpool(x).flatten(1))  # -> (B, 512) -> (B, K)

    def _load(self, weights: str, depth: int) -> None:
        """Loads weights that torchvision has for a ResNet of this depth; skips those of another shape."""
        known = torchvision.models.get_model_weights(f"resnet{depth}")
        names = ["DEFAULT", *(each.name for each in known)]
        if weights not in names:
            raise UserError(f"model.weights={weights}: of depth {depth} torchvision has {', '.join(names)}")
        state, own = known[weights].get_state_dict(progress=False), self.state_dict()
        conv, first = state["conv1.weight"], own["conv1.weight"]
        if conv.shape[2:] == first.shape[2:] and first.shape[1] == 1:
            state["conv1.weight"] = conv.sum(1, keepdim=True)
        self.load_state_dict({k: v for k, v in state.items() if v.shape == own[k].shape}, strict=False)
