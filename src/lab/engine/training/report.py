"""Reports a run: hyperparameters at the start, metrics at the end."""

from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities.model_helpers import is_overridden

from lab.engine.utils.paths import ROOT
from lab.engine.utils.redaction import redact

STAGES = ("train", "val", "test")  # the columns of the table, in this order
GROUPS = ("data", "model", "optimizer", "scheduler", "seed")


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """Returns the hyperparameters for loggers, as plain values with secrets masked."""
    hparams: dict[str, Any] = {
        key: OmegaConf.to_container(cfg[key], resolve=True) if OmegaConf.is_config(cfg[key]) else cfg[key]
        for key in GROUPS
    }
    hparams["trainer"] = {key: cfg.trainer.get(key) for key in ("max_epochs", "precision", "accumulate_grad_batches")}
    return redact(hparams)


def cost(trainer: pl.Trainer, model: pl.LightningModule) -> dict[str, float]:
    """Returns the cost of training: epochs, optimizer steps, trainable parameters, and seconds if a Timer ran."""
    metrics = {
        "cost/epochs": float(trainer.current_epoch),
        "cost/steps": float(trainer.global_step),
        "cost/parameters": float(sum(p.numel() for p in model.parameters() if p.requires_grad)),
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer):
            metrics["cost/seconds"] = round(callback.time_elapsed(), 3)
    return metrics


def gaps(metrics: dict[str, float], data: Any) -> dict[str, float]:
    """Returns how far each metric lies above the best possible on this data, where `optimal_metrics` gives that."""
    optimal = getattr(data, "optimal_metrics", {})
    return {f"{name}_gap": metrics[name] - best for name, best in optimal.items() if name in metrics}


def report(metrics: dict[str, float], directory: Path) -> str:
    """Returns the text that a run prints at its end: metrics, its directory and, outside of sweeps, next commands."""
    lines = [*_table(metrics), f"run directory: {directory}"]
    is_job = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if not is_job and any(directory.glob("checkpoints/best.ckpt")):  # debug=fast leaves none
        run = quote(str(directory.relative_to(ROOT) if directory.is_relative_to(ROOT) else directory))
        lines += [
            "next: make tensorboard",
            f"      python scripts/evaluate.py run={run}",
            f"      python src/train.py resume={run} trainer.max_epochs=N",
        ]
    return "\n".join(lines)


def _table(metrics: dict[str, float]) -> Iterator[str]:
    """Yields a line for each metric, with a column for each stage; leaves out `cost/...`."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        stage, _, metric = name.partition("/")
        if stage != "cost":
            row, column = (metric, stage) if stage in STAGES else (name, "")  # of a foreign model
            rows.setdefault(row, {})[column] = value
    stages = [stage for stage in (*STAGES, "") if any(stage in row for row in rows.values())]
    table = [["", *(stage or "value" for stage in stages)]]
    table += [[metric, *(f"{row[s]:.4f}" if s in row else "" for s in stages)] for metric, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *values in table:
        cells = (f"  {value:>{width}}" for value, width in zip(values, widths[1:], strict=True))
        yield f"{name:{widths[0]}}{''.join(cells)}".rstrip()


def is_testable(model: pl.LightningModule, data: Any) -> bool:
    """Returns whether the model has a `test_step`, and the data or the model a `test_dataloader`."""
    return is_overridden("test_step", model) and (
        is_overridden("test_dataloader", model)
        or (isinstance(data, pl.LightningDataModule) and is_overridden("test_dataloader", data))
    )
