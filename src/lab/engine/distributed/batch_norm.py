"""Computes batch norm over the samples of all ranks, on CPUs as well."""

from typing import Any

import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn import functional as F

Ordinary = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class SumOverRanks(Function):
    """Sums a tensor over all ranks; its gradient is summed, too."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return SumOverRanks.forward(_, gradient)


class SyncBatchNorm(nn.BatchNorm2d):
    """Does on CPUs what torch's layer of this name does on GPUs alone, with (B, C, ...) of any number of dimensions.

    Args:
        layer: an ordinary one, whose parameters and buffers it shares.
    """

    def __init__(self, layer: Ordinary) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.train(layer.training)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            of_batch = self.running_mean is None
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=of_batch, eps=self.eps
            )
        over = [0, *range(2, x.ndim)]  # all but the channels

        def spread(of_channel: Tensor) -> Tensor:
            return of_channel.view(-1, *[1] * (x.ndim - 2))  # (C, 1, ...)

        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = SumOverRanks.apply(torch.cat([wide.sum(over), wide.new_tensor([x.numel() / x.shape[1]])]))
        count = sums[-1].detach()
        if count < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
        mean = sums[:-1] / count  # (C,)
        centred = wide - spread(mean)
        var = SumOverRanks.apply(centred.square().sum(over)) / count
        if self.track_running_stats:
            self._remember(mean.detach(), var.detach() * count / (count - 1))
        y = centred * spread((var + self.eps).rsqrt())
        if self.affine:
            y = y * spread(self.weight) + spread(self.bias)
        return y.to(x.dtype)

    def _remember(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(var.to(self.running_var), share)


class SyncBatchNorms(TorchSyncBatchNorm):
    """Makes the batch norms of a model those of all ranks while it is trained: Lightning's, for CPUs as well."""

    def __init__(self) -> None:
        self._ordinary: dict[str, Ordinary] = {}  # the layers that are replaced, by their places

    def apply(self, model: nn.Module) -> nn.Module:
        if any(p.device.type != "cpu" for p in model.parameters()):
            return super().apply(model)
        places = model.named_modules(remove_duplicate=False)  # a layer may have two
        self._ordinary = {place: layer for place, layer in places if isinstance(layer, Ordinary)}
        shared = {layer: SyncBatchNorm(layer) for layer in self._ordinary.values()}
        for place, layer in self._ordinary.items():
            model.set_submodule(place, shared[layer])
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for place, layer in self._ordinary.items():
            layer.load_state_dict(model.get_submodule(place).state_dict())  # its tensors may be others by now
            model.set_submodule(place, layer)
        self._ordinary = {}
        return super().revert(model)
