"""Trains one run, from its config to its metrics."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from lab.engine.checkpointing.callback import best_checkpoint
from lab.engine.compat.lightning import FitLoop
from lab.engine.config.instantiate import build_model, drop_unused_factories, instantiate, instantiate_each
from lab.engine.distributed.preemption import SignalHandler, preemption
from lab.engine.distributed.session import cluster_plugins, ranks
from lab.engine.runs.recorder import Recorder
from lab.engine.runs.resume import limits
from lab.engine.training.metrics import LoggedMetrics
from lab.engine.training.model import check_checkpoint, compile_layers, explain_memory
from lab.engine.training.report import cost, gaps, hyperparameters, is_testable, report

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> float | None:
    """Trains, tests and records the run that `cfg` describes.

    Returns:
        The objective at the best checkpoint, for a sweeper; None where nothing was validated.
    """
    run = Recorder(Path(cfg.paths.run_dir))
    objective = objective_metric(cfg)
    is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    if run.is_finished(cfg):
        return run.metrics.get(str(objective))
    drop_unused_factories(cfg)
    with preemption(run.dir) as signals, run.recording(cfg) if is_first else nullcontext():
        model, data, trainer = build(cfg, signals=signals)
        with (
            ranks(trainer, run.dir, on_abort=lambda status, cause: run.finish(status, error=cause)),
            explain_memory(cfg.data.get("batch_size"), cfg.trainer.accumulate_grad_batches),
        ):
            if is_first:  # floating-point sums depend on both
                devices = f"{trainer.num_nodes * trainer.num_devices} x {trainer.strategy.root_device.type}"
                run.update(devices=devices, threads=torch.get_num_threads())
            metrics = fit(cfg, run, model, data, trainer) if cfg.fit else {}
            signals.raise_if_received()
            if cfg.test and not trainer.fit_loop.stopped:  # type: ignore[attr-defined]
                metrics |= test(model, data, trainer)
        if is_first:
            run.save_metrics(metrics)
    for logger in trainer.loggers:
        if hasattr(logger, "log_final_metrics"):
            logger.log_final_metrics(metrics)
        logger.save()
    if is_first:
        log.info("%s", report(metrics, run.dir))
    return metrics.get(str(objective))


def objective_metric(cfg: DictConfig) -> str | None:
    """Returns the metric that says which checkpoint is best; None where none does."""
    metric: str | None = (cfg.get("objective") or {}).get("metric")
    return metric


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
    if cfg.compile:
        compile_layers(model)
    callbacks = [*instantiate_each(cfg.callbacks), LoggedMetrics(objective_metric(cfg)), *callbacks]
    if signals is not None:  # Lightning installs handlers of its own before it tests
        callbacks.append(pl.callbacks.LambdaCallback(on_test_start=lambda *_: signals.install()))
    trainer = instantiate(
        cfg.trainer,
        callbacks=callbacks,
        logger=instantiate_each(cfg.logger),
        plugins=[*(instantiate(cfg.trainer.get("plugins")) or []), *cluster_plugins(cfg.trainer)],
        enable_checkpointing=any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),  # else Lightning adds one
    )
    trainer.fit_loop = FitLoop(trainer, signals or SignalHandler(), fast=cfg.fast_loop)
    return model, data, trainer


def fit(cfg: DictConfig, run: Recorder, model: pl.LightningModule, data: Any, trainer: pl.Trainer) -> dict[str, float]:
    """Trains, from the newest checkpoint if the run is resumed; leaves the best checkpoint's weights in `model`.

    Returns:
        The metrics at the best checkpoint, and the cost of training.
    """
    newest, steps, metrics = (run.newest_checkpoint() if cfg.resume else None), 0, dict[str, float]()
    if newest is not None:
        checkpoint = run.read_checkpoint(newest)
        check_checkpoint(checkpoint, newest, model, trainer)
        steps, epoch, metrics = checkpoint["global_step"], checkpoint["epoch"] + 1, checkpoint.get("metrics", metrics)
        log.info("resuming from %s, after %d steps, in epoch %d", newest, steps, epoch)
        if run.record.get("trained") == limits(cfg):
            trainer.fit_loop.skip_training()  # type: ignore[attr-defined]
    for logger in trainer.loggers:
        if hasattr(logger, "resume_at"):
            logger.resume_at(steps)
        logger.log_hyperparams(hyperparameters(cfg))
    if trainer.global_rank:  # ranks start with the same weights, but draw their own dropout and noise
        torch.manual_seed(cfg.seed + trainer.global_rank)
    trainer.fit(model, datamodule=data, ckpt_path=newest, weights_only=True)
    if trainer.is_global_zero and not trainer.fit_loop.stopped:  # type: ignore[attr-defined]
        run.update(trained=limits(cfg))  # a run that is stopped during its test is not trained further

    best = trainer.strategy.broadcast(best_checkpoint(trainer))
    metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    if best:  # not by ckpt_path, which would load the averaged weights in place of the moving average
        checkpoint = run.read_checkpoint(Path(best))
        model.load_state_dict(checkpoint["state_dict"])
        metrics = checkpoint.get("metrics", metrics)
    return {name: value for name, value in metrics.items() if not name.startswith("lr-")} | cost(trainer, model)


def test(model: pl.LightningModule, data: Any, trainer: pl.Trainer) -> dict[str, float]:
    """Tests the model as it is.

    Returns:
        The metrics of every test loader, and their gaps to the best possible where those are known.
    """
    if not is_testable(model, data):
        log.info("%s has no test_step, or there is no test_dataloader: nothing is tested", type(model).__name__)
        return {}
    metrics: dict[str, float] = {}
    for of_loader in trainer.test(model, datamodule=data, verbose=False):
        metrics |= of_loader
    return metrics | gaps(metrics, data)
