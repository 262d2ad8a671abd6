"""Builds what a run trains: model, data and trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, ListConfig

from lab.engine.checkpointing.io import AtomicCheckpointIO
from lab.engine.checkpointing.weights import load_weights
from lab.engine.compat.lightning import FitLoop
from lab.engine.config.instantiate import build_model, instantiate, instantiate_each
from lab.engine.config.rules import DOUBLE
from lab.engine.distributed.batch_norm import SyncBatchNorms
from lab.engine.distributed.environment import cluster_environment
from lab.engine.distributed.preemption import SignalHandler
from lab.engine.training.metrics import LoggedMetrics
from lab.engine.training.model import compile_layers
from lab.engine.utils.processes import torchrun_ranks


def objective_metric(cfg: DictConfig) -> str | None:
    """Returns the metric that says which checkpoint is best; None where none does."""
    return (cfg.get("objective") or {}).get("metric")


def build(
    cfg: DictConfig, callbacks: Sequence[pl.Callback] = (), signals: SignalHandler | None = None
) -> tuple[Any, Any, pl.Trainer]:
    """Seeds, then builds the model, the data and the trainer of `cfg`.

    Args:
        cfg: the whole config.
        callbacks: to add to those of the config.
        signals: tells the training loop when to stop; None for a run that no signal stops.
    """
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = instantiate(cfg.data)
    model = build_model(cfg)
    if str(cfg.trainer.get("precision")) in DOUBLE:  # Lightning would convert it after a checkpoint was read into it
        model.double()
    if cfg.weights.path is not None and not cfg.resume:
        load_weights(model, Path(cfg.weights.path), cfg.weights.map, cfg.weights.strict)
    if cfg.compile:
        compile_layers(model, "default" if cfg.compile is True else cfg.compile)
    callbacks = [*instantiate_each(cfg.callbacks), LoggedMetrics(objective_metric(cfg)), *callbacks]
    if signals is not None:  # Lightning installs handlers of its own before it tests
        callbacks.append(pl.callbacks.LambdaCallback(on_test_start=lambda *_: signals.install()))
    ranks = torchrun_ranks()
    if isinstance(cfg.trainer.get("devices"), ListConfig):  # which, not how many
        ranks.pop("devices", None)
    plugins = [*(instantiate(cfg.trainer.get("plugins")) or []), cluster_environment(cfg.trainer.get("num_nodes") or 1)]
    if not any(isinstance(plugin, AtomicCheckpointIO) for plugin in plugins):  # older runs name it
        plugins.append(AtomicCheckpointIO())
    if cfg.trainer.get("sync_batchnorm"):
        plugins.append(SyncBatchNorms())
    trainer = instantiate(
        cfg.trainer,
        **ranks,
        callbacks=callbacks,
        logger=instantiate_each(cfg.logger),
        plugins=plugins,
        enable_checkpointing=any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),  # else Lightning adds one
    )
    trainer.fit_loop = FitLoop(trainer, signals or SignalHandler(), fast=cfg.fast_loop)
    return model, data, trainer
