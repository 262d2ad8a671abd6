"""Computes batch norm over the samples of all ranks, on CPUs as well."""

from typing import Any

import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm


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


class SyncBatchNorm(_BatchNorm):
    """Does on CPUs what torch's layer of this name does on GPUs alone; an ordinary layer becomes one, and is one again.

    Attributes:
        kind: the ordinary layer's class.
    """

    kind: type[_BatchNorm]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.kind.forward(self, x)
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

    def _check_input_dim(self, x: Tensor) -> None: ...

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

    def apply(self, model: nn.Module) -> nn.Module:
        layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        if any(layer.weight.device.type != "cpu" for layer in layers if layer.affine):
            return super().apply(model)
        for layer in layers:
            vars(layer)["kind"] = type(layer)
            layer.__class__ = SyncBatchNorm  # type: ignore[assignment]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for module in model.modules():
            if type(module) is SyncBatchNorm:
                module.__class__ = module.kind  # type: ignore[assignment]
        return super().revert(model)
