"""Compiles a model, checks and loads its checkpoints, and explains errors of torch and Lightning."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn
from torchmetrics import Metric, MetricCollection

from lab.engine.checkpointing.callback import best_checkpoint
from lab.engine.runs.run import Run
from lab.engine.utils.errors import RunFailed, UserError

ISOLATE = "isolate_recompiles"  # an argument that older versions of torch lack


def compile_layers(model: pl.LightningModule, mode: str = "default") -> None:
    """Compiles each layer of `model` in place, so that the names in its state dict stay the same.

    Args:
        model: to compile.
        mode: see `torch.compile`.
    """
    torch.compiler.reset()  # which batch sizes an earlier run of this process had, another job's, decides rounding
    for child in model.children():
        for layer in child if isinstance(child, nn.ModuleList) else [child]:  # a list is not called itself
            if not isinstance(layer, Metric | MetricCollection):
                # Layers of torch's own classes share one function, which else is compiled 8 times at most for them all
                is_shared = (
                    type(layer).__module__.startswith("torch.") and ISOLATE in signature(torch.compile).parameters
                )
                layer.compile(mode=mode, **({ISOLATE: True} if is_shared else {}))


@contextmanager
def matmul_precision(name: str | None) -> Iterator[None]:
    """Sets `torch.set_float32_matmul_precision` for a while; None leaves it as it is."""
    if name is None:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_checkpoint(checkpoint: dict[str, Any], path: Path, model: pl.LightningModule, trainer: pl.Trainer) -> None:
    """Refuses the checkpoint of another model, and a max_epochs or max_steps that the run has passed already.

    Raises:
        UserError: with the remedy.
    """
    shapes, saved = (
        {name: getattr(value, "shape", None) for name, value in state.items()}
        for state in (model.state_dict(), checkpoint["state_dict"])
    )
    if is_overridden("configure_model", model) or is_overridden("setup", model):  # which may make more layers later
        saved = {name: saved.get(name) for name in shapes}
    if shapes != saved:
        raise UserError(
            f"{path} is no checkpoint of this run's {type(model).__name__}: put its own back, or remove this one"
        )
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["started"]
    for key, limit, done in (
        ("max_epochs", trainer.max_epochs, epochs),
        ("max_steps", trainer.max_steps, checkpoint["global_step"]),
    ):
        if limit is not None and 0 <= limit < done:
            raise UserError(f"trainer.{key}={limit}: the run has come to {done} already")


def load_best(model: pl.LightningModule, trainer: pl.Trainer, run: Run) -> dict[str, float]:
    """Loads the best checkpoint's weights into `model` and returns its metrics; without one, those logged last."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if best := trainer.strategy.broadcast(best_checkpoint(trainer)):
        # Not by ckpt_path, which would load the averaged weights in place of the moving average
        checkpoint = run.read_checkpoint(Path(best))
        model.load_state_dict(checkpoint["state_dict"])
        metrics = checkpoint.get("metrics", metrics)
    return metrics


@contextmanager
def explain_errors(batch_size: int | None, accumulate: int) -> Iterator[None]:
    """Turns known errors of torch and Lightning, from any model, into errors with a remedy.

    Args:
        batch_size: of the data; None if it has none.
        accumulate: batches per optimizer step.

    Raises:
        UserError: for batches that are too small for batch normalization, a share of the batches that is none or
            unknown, and what Lightning cannot accumulate or clip.
        RunFailed: where memory is exhausted.
    """
    try:
        yield
    except MisconfigurationException as error:
        if "not supported for manual optimization" in str(error):
            raise UserError(str(error)) from error
        if not any(start in str(error) for start in ("Please increase the `limit_", "When using an `IterableDataset`")):
            raise
        raise UserError(f"{error} (where trainer.overfit_batches is set, it is that one)") from error
    except Exception as error:
        if "does not allow for gradient clipping" in str(error):
            raise UserError(
                "trainer.gradient_clip_val: fused optimizers do not clip under mixed precision: optimizer.fused=false"
            ) from error
        if "Expected more than 1 value per channel when training" in str(error):
            raise UserError(
                "a batch of one sample cannot be normalized over the batch: use more than"
                f" data.batch_size={batch_size} on each process, a data.batch_size that leaves no last batch of one"
                " sample, or a model without batch norm"
            ) from error
        # Only its message identifies an error of the CPU's allocator
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        lines = [f"out of memory: {(str(error) or type(error).__name__).splitlines()[0]}"]
        if isinstance(batch_size, int):
            lines.append(
                f"the same steps with half of data.batch_size={batch_size} at a time:"
                f" data.batch_size={max(1, batch_size // 2)}"
                f" trainer.accumulate_grad_batches={2 * accumulate}"
            )
        lines.append("or trainer.precision=bf16-mixed, or smaller batches of validation if it was that")
        raise RunFailed("\n".join(lines)) from error
