"""Wraps torchvision's ResNet, an example of a network from elsewhere as a model here."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import AtLeastTwo, ImageShape, NonNegativeInt
from lab.models.tasks.classification import Classifier

LARGE = 64  # pixels; torchvision's first layers, made for 224, quarter the sides at once


class ResNet(Classifier):
    """Residual network whose first layer keeps the size of a small image, where torchvision's quarters it.

    Args:
        image_shape: (channels, height, width) of the input.
        num_classes: K.
        depth: 18, 34, 50, 101 or 152.
        weights: null, the name of torchvision's (`DEFAULT`, `IMAGENET1K_V1`: fetched once), or the path of a file with
            a state dict of torchvision's ResNet of this depth. Layers whose shapes differ (the first, for other
            channels or small images, and the last, for other classes) start afresh; the first sums its filters over
            the colours where only these differ.
        frozen_epochs: epochs for which only the last layer learns; 0 for none. Then every `unfreeze_every` epochs one
            more stage learns, the last first (Howard and Ruder 2018, section 3.3).
        unfreeze_every: epochs between two stages; 0 lets all go at once.
        **task: see `Classifier`.

    Source: He, Zhang, Ren and Sun 2016, table 1; the first layer for small images: section 4.2.
    """

    def __init__(
        self,
        image_shape: ImageShape = (1, 28, 28),
        num_classes: AtLeastTwo = 10,
        depth: Literal[18, 34, 50, 101, 152] = 18,
        weights: str | None = None,
        frozen_epochs: NonNegativeInt = 0,
        unfreeze_every: NonNegativeInt = 0,
        **task: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **task)
        self.frozen_epochs = frozen_epochs
        self.unfreeze_every = unfreeze_every
        self.hparams["weights"] = None  # a checkpoint brings its own
        channels, height, width = image_shape
        net = torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=num_classes)
        first = net.conv1
        if min(height, width) < LARGE:
            first = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
            net.set_submodule("maxpool", nn.Identity())
        elif channels != 3:
            first = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        if first is not net.conv1:
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
            net.set_submodule("conv1", first)
        if weights is not None:
            _load(net, weights, depth)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])
        self.pool = net.avgpool
        self.head = net.fc
        self.to(memory_format=torch.channels_last)  # faster on CPUs, and on tensor cores

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, C, H, W) -> (B, 64, H, W), or a quarter of the sides for a large image
        for stage in self.stages:
            x = stage(x)  # sides halved by each but the first; 512 maps in the end, 2048 from depth 50
        return self.head(self.pool(x).flatten(1))  # -> (B, 512) -> (B, K)

    def num_frozen(self) -> int:
        """Returns how many parts are frozen in this epoch, from the input on: 0 to 5, the stem and four stages."""
        since = self.current_epoch - self.frozen_epochs
        if since < 0:
            return 5
        if self.frozen_epochs == 0 or self.unfreeze_every == 0:
            return 0
        return max(0, 4 - since // self.unfreeze_every)

    def on_train_start(self) -> None:
        wrapped = self.trainer.model
        if self.frozen_epochs and isinstance(wrapped, DistributedDataParallel) and not wrapped.find_unused_parameters:
            raise UserError(
                f"frozen_epochs={self.frozen_epochs}: ranks must know that some layers do not learn, so use"
                " trainer.strategy=ddp_find_unused_parameters_true"
            )
        self.freeze_parts()  # a run resumed within an epoch has no start of it

    def on_train_epoch_start(self) -> None:
        self.freeze_parts()

    def freeze_parts(self) -> None:
        """Freezes parts: they get no gradient, and their batch norms keep their statistics."""
        for i, part in enumerate([self.stem, *self.stages]):
            learns = i >= self.num_frozen()
            part.requires_grad_(learns)
            part.train(learns)


def _load(net: nn.Module, weights: str, depth: int) -> None:
    """Loads the weights that torchvision, or a file, has for a ResNet of this depth; skips those of another shape."""
    names = [w.name for w in torchvision.models.get_model_weights(f"resnet{depth}")]
    if weights in ("DEFAULT", *names):
        state = torchvision.models.get_model_weights(f"resnet{depth}")[weights].get_state_dict(progress=False)
    elif Path(weights).is_file():
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            raise UserError(f"{weights} holds code; not loaded") from error
    else:
        raise UserError(f"model.weights={weights}: neither a file nor one of DEFAULT, {', '.join(names)}")
    own = net.state_dict()
    if other := sorted(set(state) ^ set(own)):
        raise UserError(f"model.weights={weights} is no ResNet of depth {depth}: they differ in {other[0]}")
    conv = state.get("conv1.weight")
    if conv is not None and conv.shape[2:] == own["conv1.weight"].shape[2:] and own["conv1.weight"].shape[1] == 1:
        state["conv1.weight"] = conv.sum(1, keepdim=True)
    net.load_state_dict({k: v for k, v in state.items() if v.shape == own[k].shape}, strict=False)
