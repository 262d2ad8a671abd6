"""One run, from its config to its figures."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import distributed, nn
from torchmetrics import Metric, MetricCollection

from lab import loop
from lab.build import instantiate, instantiate_each
from lab.callbacks import Meter
from lab.logs import ignore_known_warnings
from lab.redaction import redact
from lab.runs import Run

log = logging.getLogger(__name__)

ignore_known_warnings()

# Lightning asks for this so that a process can fork after it looked for GPUs. None forks here, and every step of Adam
# looks for GPUs: asking the driver anew costs it 50 microseconds.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def train(cfg: DictConfig) -> float | None:
    """Fits, tests the best checkpoint, writes `metrics.json`.

    Returns:
        The objective at the best checkpoint, for a sweeper; None where nothing was validated.
    """
    run = Run(Path(cfg.paths.run_dir))
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    if first:
        run.start(cfg)
    else:
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.WARNING)
    try:
        metrics = _train(cfg, run)
    except BaseException as error:
        if first:
            run.finish("failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        _release_ranks()
    if first:
        run.save_metrics(metrics)
        run.finish("completed")
        log.info("%s", "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        log.info("run directory: %s", run.dir)
    return metrics.get(cfg.objective.metric)


def build(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> tuple[Any, Any, pl.Trainer]:
    """Seeds, then makes the model, the data and the trainer of `cfg`, with more `callbacks` than it names."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = instantiate(cfg.data)
    model = instantiate(cfg.model, optimizer=instantiate(cfg.optimizer), scheduler=instantiate(cfg.scheduler))
    if cfg.compile:
        compile_layers(model)
    loggers = instantiate_each(cfg.logger)
    trainer = instantiate(
        cfg.trainer, callbacks=[Meter(), *instantiate_each(cfg.callbacks), *callbacks], logger=loggers or False
    )
    if cfg.quick_loop:
        loop.install(trainer)
    return model, data, trainer


def _train(cfg: DictConfig, run: Run) -> dict[str, float]:
    model, data, trainer = build(cfg)
    _lead_ranks_here(run)
    if trainer.global_rank:  # ranks begin with the same weights, and then draw their own dropout and noise
        torch.manual_seed(cfg.seed + trainer.global_rank)
    if trainer.is_global_zero:
        run.note(devices=f"{trainer.num_nodes * trainer.num_devices} x {trainer.strategy.root_device.type}")
    metrics: dict[str, float] = {}
    best = None
    if cfg.fit:
        trainer.fit(model, datamodule=data, weights_only=True)
        checkpoint: Any = next((c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None)), None)
        best = checkpoint.best_model_path or None if checkpoint else None
        metrics |= {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        objective = checkpoint.best_model_score if best else trainer.callback_metrics.get(cfg.objective.metric)
        if objective is not None:
            metrics[cfg.objective.metric] = float(objective)
    if cfg.test:
        metrics |= trainer.test(model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)[0]
        metrics |= excess(metrics, data)
    for logger in trainer.loggers:
        _log_hyperparameters(logger, cfg, metrics)
    return metrics


def excess(metrics: dict[str, float], data: Any) -> dict[str, float]:
    """How far each figure lies above what is best for it on this data, where `data.optimum` knows that."""
    return {f"{name}_excess": metrics[name] - best for name, best in data.optimum.items() if name in metrics}


def compile_layers(model: pl.LightningModule) -> None:
    """Compiles each layer of `model` in place: no name in its state changes."""
    for child in model.children():
        for layer in child if isinstance(child, nn.ModuleList) else [child]:  # a list is not called, its members are
            if not isinstance(layer, Metric | MetricCollection):
                layer.compile()


def _lead_ranks_here(run: Run) -> None:
    """Gives the processes that Lightning starts for the other ranks this very job and directory.

    It repeats this process's command line, in which a sweep would start again from its beginning, and asks Hydra for
    `hydra.run.dir`.
    """
    if HydraConfig.initialized():
        config = HydraConfig.get()
        sys.argv[1:] = [*config.overrides.task, "hydra.mode=RUN"]
        with read_write(config):  # type: ignore[arg-type]
            config.run.dir = str(run.dir)


def _release_ranks() -> None:
    """Ends the group of processes that Lightning started, so that the next job of a sweep can start its own."""
    if distributed.is_initialized() and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        distributed.destroy_process_group()
        for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)


def _log_hyperparameters(logger: Logger, cfg: DictConfig, metrics: dict[str, float]) -> None:
    """What was chosen beside what came of it, for TensorBoard's HPARAMS page and its like."""
    chosen = {
        name: OmegaConf.to_container(cfg[name], resolve=True) if OmegaConf.is_config(cfg[name]) else cfg[name]
        for name in ("data", "model", "optimizer", "scheduler", "seed")
    }
    chosen["trainer"] = {name: cfg.trainer[name] for name in ("max_epochs", "precision", "accumulate_grad_batches")}
    chosen = redact(chosen)
    if isinstance(logger, TensorBoardLogger):
        logger.log_hyperparams(chosen, {f"final/{name}": value for name, value in metrics.items()})
    else:
        logger.log_hyperparams(chosen)
