"""Defines the optimizers that configs name and tasks build."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.optim import Optimizer

from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import NonNegativeFloat, PositiveInt, Probability

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def parameter_groups(params: Iterable[nn.Parameter], decay_biases_and_norms: bool) -> list[Any]:
    """Returns `params`, or two groups of them: those below two dimensions, biases and norms, then do not decay."""
    params = list(params)
    if decay_biases_and_norms:
        return params
    return [
        {"params": [p for p in params if p.ndim >= 2]},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]


class SGD(optim.SGD):
    """Adds `decay_biases_and_norms` to `torch.optim.SGD`.

    Args:
        params: to optimize.
        lr: step size.
        momentum: share of the last step that is taken again.
        nesterov: look ahead by the momentum (Sutskever et al. 2013).
        weight_decay: weight of the L2 penalty in the gradient.
        decay_biases_and_norms: false: only matrices and filters decay.
        fused: one kernel for all parameters.
        **options: of torch's.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: NonNegativeFloat = 0.1,
        momentum: Probability = 0.9,
        nesterov: bool = True,
        weight_decay: NonNegativeFloat = 0.0,
        decay_biases_and_norms: bool = True,
        fused: bool | None = True,
        **options: Any,
    ) -> None:
        groups = parameter_groups(params, decay_biases_and_norms)
        super().__init__(groups, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fused, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        # torch's fused kernel takes the momenta of all parameters or of none, and those of a layer that is frozen at
        # first come later. A momentum of zero is torch's first step, except under dampening
        if group["fused"] and group["momentum"] and not group["dampening"]:
            for p in group["params"]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)


class Adam(optim.Adam):
    """Adds `decay_biases_and_norms` to `torch.optim.Adam`.

    Args:
        params: to optimize.
        lr: step size.
        betas: decay of the means of gradients and of their squares.
        weight_decay: weight of the L2 penalty in the gradient.
        decay_biases_and_norms: false: only matrices and filters decay.
        fused: one kernel for all parameters.
        **options: of torch's.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: NonNegativeFloat = 1e-3,
        betas: tuple[Probability, Probability] = (0.9, 0.999),
        weight_decay: NonNegativeFloat = 0.0,
        decay_biases_and_norms: bool = True,
        fused: bool | None = True,
        **options: Any,
    ) -> None:
        groups = parameter_groups(params, decay_biases_and_norms)
        super().__init__(groups, lr, betas, weight_decay=weight_decay, fused=fused, **options)


class AdamW(optim.AdamW):
    """Adds `decay_biases_and_norms` to `torch.optim.AdamW`; see `Adam` for the arguments."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: NonNegativeFloat = 5e-3,
        betas: tuple[Probability, Probability] = (0.9, 0.999),
        weight_decay: NonNegativeFloat = 0.01,
        decay_biases_and_norms: bool = True,
        fused: bool | None = True,
        **options: Any,
    ) -> None:
        groups = parameter_groups(params, decay_biases_and_norms)
        super().__init__(groups, lr, betas, weight_decay=weight_decay, fused=fused, **options)


class LBFGS(optim.LBFGS):
    """Extends `torch.optim.LBFGS` to convolutions: torch's own fails on parameters that are channels-last.

    Args:
        params: to optimize.
        lr: step size, where the line search begins.
        max_iter: iterations a step.
        history_size: steps that the curvature is estimated from.
        tolerance_grad: of the largest element; torch's own limits leave the sixth digit open in double precision.
        tolerance_change: of the parameters and the loss.
        line_search_fn: None for steps of `lr`.
        **options: of torch's.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: NonNegativeFloat = 1.0,
        max_iter: PositiveInt = 20,
        history_size: PositiveInt = 10,
        tolerance_grad: NonNegativeFloat = 1e-10,
        tolerance_change: NonNegativeFloat = 1e-14,
        line_search_fn: Literal["strong_wolfe"] | None = "strong_wolfe",
        **options: Any,
    ) -> None:
        params = list(params)
        with torch.no_grad():  # torch flattens gradients by `view`, and they are laid out as their parameters are
            for p in params:
                p.set_(p.contiguous())  # type: ignore[call-overload]
        super().__init__(
            params,
            lr,
            max_iter,
            history_size=history_size,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            line_search_fn=line_search_fn,
            **options,
        )


def configure(
    module: pl.LightningModule,
    optimizer: OptimizerFactory | None,
    scheduler: dict[str, Any] | None,
    part: str | None = None,
    every: int = 1,
) -> Any:
    """Builds what `configure_optimizers` returns, for one optimizer, from the factories of a task.

    Args:
        module: its parameters are optimized.
        optimizer: called with the parameters.
        scheduler: Lightning's own dictionary (`interval`, `frequency`, `monitor`), where `scheduler` is a factory,
            called with the optimizer and, where it takes one, `total_steps`. None for a constant rate.
        part: name of the submodule whose parameters alone are optimized, by one of several optimizers that manual
            optimization steps.
        every: optimizer steps of the fit for each of this optimizer's.
    """
    if optimizer is None:
        raise UserError(f"{type(module).__name__} was built without an optimizer: pass optimizer=… to train it")
    with _named("optimizer"):
        built = optimizer((getattr(module, part) if part else module).parameters())
    if scheduler is None:
        return {"optimizer": built}
    factory = scheduler["scheduler"]
    if "total_steps" in inspect.signature(factory).parameters:
        interval = scheduler.get("interval", "epoch")
        steps = _num_steps(module.trainer, interval)
        factory = partial(factory, total_steps=max(1, steps // every) if interval == "step" else steps)
    with _named("scheduler.scheduler"):
        schedule = {**scheduler, "scheduler": factory(built)}
    if part:
        schedule["name"] = f"lr-{part}"
        schedule.pop("monitor", None)  # which Lightning does not look at there
    return {"optimizer": built, "lr_scheduler": schedule}


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Names the key of the config whose arguments a constructor of torch refuses."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error


def _num_steps(trainer: pl.Trainer, interval: str) -> int:
    """Returns the number of steps of a schedule over the whole fit.

    Args:
        trainer: its limits and its training data are asked.
        interval: "step" of the optimizer, or "epoch".

    Raises:
        UserError: where that is not known before the fit.
    """
    if any(isinstance(c, pl.callbacks.GradientAccumulationScheduler) for c in trainer.callbacks):  # type: ignore[attr-defined]
        raise UserError(
            "GradientAccumulationScheduler: the steps of this schedule cannot be counted where accumulation changes:"
            " use trainer.accumulate_grad_batches, or scheduler=none"
        )
    steps, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    if interval == "epoch" and math.isfinite(batches):
        steps = math.ceil(steps / math.ceil(batches / trainer.accumulate_grad_batches))
    elif interval == "epoch":
        steps = (trainer.max_epochs or 0) if trainer.max_steps == -1 else -1
    if not 0 < steps < math.inf:
        length = f"{batches} batches" if math.isfinite(batches) else "unknown length"
        raise UserError(
            f"this schedule must know how many {interval}s the fit has, which trainer.max_epochs={trainer.max_epochs},"
            f" max_steps={trainer.max_steps} and epochs of {length} do not say: set"
            f" {'max_steps' if interval == 'step' else 'max_epochs'}, or use scheduler=none"
        )
    return int(steps)
