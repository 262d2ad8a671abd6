"""Trains one run, from its config to its metrics."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from lab.engine.checkpointing.weights import origin
from lab.engine.config.instantiate import drop_unused_factories
from lab.engine.distributed.preemption import preemption
from lab.engine.distributed.refusal import refused_together
from lab.engine.distributed.session import supervised_ranks
from lab.engine.runs.recorder import Recorder
from lab.engine.training.build import build, objective_metric
from lab.engine.training.loggers import ended_with_run, start_loggers
from lab.engine.training.model import check_checkpoint, explain_errors, load_best, matmul_precision
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
        log.info("%s has %s: nothing is left to do", run.dir, "been pruned" if run.status == "pruned" else "completed")
        return run.metrics.get(str(objective))
    drop_unused_factories(cfg)
    with preemption(run.dir) as signals, run.recording(cfg) if is_first else nullcontext():
        with refused_together():
            model, data, trainer = build(cfg, signals=signals)
        with ended_with_run(trainer.loggers), matmul_precision(cfg.get("matmul_precision")):
            with (
                supervised_ranks(trainer, run.dir, signals, on_abort=lambda how, cause: run.finish(how, error=cause)),
                explain_errors((cfg.data or {}).get("batch_size"), cfg.trainer.get("accumulate_grad_batches") or 1),
            ):
                if is_first:  # floating-point sums depend on both
                    devices = f"{trainer.num_nodes * trainer.num_devices} x {trainer.strategy.root_device.type}"
                    run.update(devices=devices, threads=torch.get_num_threads())
                    if cfg.weights.path is not None and not cfg.resume:
                        run.update(weights=origin(Path(cfg.weights.path)))
                metrics = fit(cfg, run, model, data, trainer)
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


def fit(cfg: DictConfig, run: Recorder, model: pl.LightningModule, data: Any, trainer: pl.Trainer) -> dict[str, float]:
    """Trains, from the newest checkpoint if the run is resumed; leaves the best checkpoint's weights in `model`.

    Returns:
        The metrics at the best checkpoint, and the cost of training; with `fit=false` none.
    """
    newest, checkpoint, metrics = (run.newest_checkpoint() if cfg.resume else None), None, dict[str, float]()
    if newest is not None:
        checkpoint = run.read_checkpoint(newest)
        # Refuses another file by its name, before the model is held against its columns
        if hasattr(data, "restore") and (state := checkpoint.get(type(data).__qualname__)):
            data.load_state_dict(state)
        check_checkpoint(checkpoint, newest, model, trainer)
        steps, epoch, metrics = checkpoint["global_step"], checkpoint["epoch"] + 1, checkpoint.get("metrics", metrics)
        log.info("resuming from %s, after %d steps, in epoch %d", newest, steps, epoch)
        if run.is_trained(cfg):
            trainer.fit_loop.skip_training()  # type: ignore[attr-defined]
    start_loggers(trainer.loggers, hyperparameters(cfg), checkpoint)
    if not cfg.fit:
        return metrics
    if trainer.global_rank:  # ranks start with the same weights, but draw their own dropout and noise
        torch.manual_seed(cfg.seed + trainer.global_rank)
    trainer.fit(model, datamodule=data, ckpt_path=newest, weights_only=True)
    if trainer.is_global_zero and not trainer.fit_loop.stopped:  # type: ignore[attr-defined]
        run.mark_trained(cfg)  # a run that is stopped during its test is not trained further
    metrics |= load_best(model, trainer, run)
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
