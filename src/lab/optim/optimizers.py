"""Optimizers, as the factories that configs name and tasks call."""

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from lab.engine.utils.errors import UserError

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def _build(
    algorithm: Callable[..., Optimizer],
    params: Iterable[nn.Parameter],
    *,
    weight_decay: float,
    decay_biases_and_norms: bool = True,
    **options: Any,
) -> Optimizer:
    """`algorithm` over `params`; on demand biases and norms (parameters below two dimensions) do not decay."""
    params = list(params)
    if decay_biases_and_norms:
        groups: list[Any] = params
    else:
        groups = [
            {"params": [p for p in params if p.ndim >= 2]},
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
        ]
    return algorithm(groups, weight_decay=weight_decay, **options)


def sgd(params: Iterable[nn.Parameter], **options: Any) -> Optimizer:
    """`torch.optim.SGD`, with `decay_biases_and_norms` on top of its own options."""
    return _build(SGD, params, **options)


def adam(params: Iterable[nn.Parameter], **options: Any) -> Optimizer:
    """`torch.optim.Adam`, with `decay_biases_and_norms` on top of its own options."""
    return _build(Adam, params, **options)


def adamw(params: Iterable[nn.Parameter], **options: Any) -> Optimizer:
    """`torch.optim.AdamW`, with `decay_biases_and_norms` on top of its own options."""
    return _build(AdamW, params, **options)


def configure(
    module: pl.LightningModule, optimizer: OptimizerFactory | None, scheduler: dict[str, Any] | None
) -> OptimizerLRScheduler:
    """What `configure_optimizers` returns, from the factories that a task was built with.

    Args:
        module: its parameters are optimized.
        optimizer: called with the parameters.
        scheduler: Lightning's own dictionary (`interval`, `frequency`, `monitor`), where `scheduler` is a factory,
            called with the optimizer and, where it takes one, `total_steps`. None for a constant rate.
    """
    if optimizer is None:
        raise UserError(f"{type(module).__name__} was built without an optimizer: pass optimizer=… to train it")
    built = optimizer(module.parameters())
    if scheduler is None:
        return built
    factory = scheduler["scheduler"]
    if "total_steps" in inspect.signature(factory).parameters:
        factory = partial(factory, total_steps=_num_steps(module.trainer))
    return {"optimizer": built, "lr_scheduler": {**scheduler, "scheduler": factory(built)}}  # type: ignore[return-value]


def _num_steps(trainer: pl.Trainer) -> int:
    """Optimizer steps of the whole fit.

    `trainer.estimated_stepping_batches` knows them too, but reading it here would make a resumed run lose the state
    of its loader.
    """
    batches = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if overfit := trainer.overfit_batches:  # type: ignore[attr-defined]
        batches = min(batches, overfit) if isinstance(overfit, int) else math.ceil(batches * overfit)
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * (trainer.max_epochs or 0)
    if steps <= 0 and trainer.max_steps <= 0:
        raise UserError("this schedule needs an end: set trainer.max_epochs or trainer.max_steps, or scheduler=none")
    return steps if trainer.max_steps <= 0 else min(steps, trainer.max_steps) if steps > 0 else trainer.max_steps
