"""What a run reports: its hyperparameters at the start, its figures at the end."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities.model_helpers import is_overridden

from lab.engine.utils.redaction import redact

GROUPS = ("data", "model", "optimizer", "scheduler", "seed")


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """Returns what loggers show beside the curves: what was chosen, as plain values without secrets."""
    chosen: dict[str, Any] = {
        key: OmegaConf.to_container(cfg[key], resolve=True) if OmegaConf.is_config(cfg[key]) else cfg[key]
        for key in GROUPS
    }
    chosen["trainer"] = {key: cfg.trainer.get(key) for key in ("max_epochs", "precision", "accumulate_grad_batches")}
    return redact(chosen)


def cost(trainer: pl.Trainer, model: pl.LightningModule) -> dict[str, float]:
    """Returns what training took: epochs, optimizer steps, trained parameters, and seconds where a timer ran."""
    figures = {
        "cost/epochs": float(trainer.current_epoch),
        "cost/steps": float(trainer.global_step),
        "cost/parameters": float(sum(p.numel() for p in model.parameters() if p.requires_grad)),
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer):
            figures["cost/seconds"] = round(callback.time_elapsed(), 3)
    return figures


def gaps(metrics: dict[str, float], data: Any) -> dict[str, float]:
    """Returns how far each figure lies above the best there can be on this data, where `optimal_metrics` knows that."""
    optimal = getattr(data, "optimal_metrics", {})
    return {f"{name}_gap": metrics[name] - best for name, best in optimal.items() if name in metrics}


def report(metrics: dict[str, float], directory: Path) -> str:
    """Lays out for the screen what a run ends with: its figures, its directory and, but in a sweep, what to do next."""
    lines = [*_table(metrics), f"run directory: {directory}"]
    if not HydraConfig.initialized() or HydraConfig.get().mode == RunMode.RUN:
        run = f"run={os.path.relpath(directory)}"
        lines += [
            "next: make tensorboard",
            f"      python scripts/evaluate.py {run}",
            f"      python src/train.py {run.replace('run', 'resume', 1)} trainer.max_epochs=N",
        ]
    return "\n".join(lines)


def _table(metrics: dict[str, float]) -> Iterator[str]:
    """Yields a line for each metric, with a column for each stage; `cost/...` is left out."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        stage, _, metric = name.rpartition("/")
        if stage != "cost":
            rows.setdefault(metric, {})[stage] = value
    stages = [stage for stage in ("train", "val", "test") if any(stage in row for row in rows.values())]
    stages += [stage for row in rows.values() for stage in row if stage not in stages]  # of a foreign model
    width = max(map(len, rows), default=0)
    yield " " * width + "".join(f"{stage:>10}" for stage in dict.fromkeys(stages))
    for metric, row in rows.items():
        figures = (f"{row[stage]:10.4f}" if stage in row else " " * 10 for stage in dict.fromkeys(stages))
        yield f"{metric:{width}}{''.join(figures)}".rstrip()


def is_testable(model: pl.LightningModule, data: Any) -> bool:
    """Whether the model has a `test_step`, and the data, or the model itself, something to test on."""
    return is_overridden("test_step", model) and (
        is_overridden("test_dataloader", model)
        or (isinstance(data, pl.LightningDataModule) and is_overridden("test_dataloader", data))
    )
