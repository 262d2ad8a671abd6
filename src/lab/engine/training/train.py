"""One run, from its config to its figures."""

import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from pytorch_lightning.utilities import rank_zero_only
from torch import distributed, nn
from torchmetrics import Metric, MetricCollection

from lab.engine.checkpointing.callback import Checkpoint
from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.checkpointing.io import AtomicCheckpointIO
from lab.engine.config.instantiate import instantiate, instantiate_each
from lab.engine.distributed.launcher import Launcher, watchdog_of
from lab.engine.distributed.preemption import SLURM_SIGNALS, SignalHandler
from lab.engine.distributed.slurm import requeue
from lab.engine.runs.attach import attach_command
from lab.engine.runs.recorder import Recorder
from lab.engine.runs.resume import limits, newest
from lab.engine.runs.run import Run
from lab.engine.sweeps.pruning import Pruning, pruning_of
from lab.engine.training import loop
from lab.engine.training.loggers import continue_curves, log_hyperparameters
from lab.engine.training.metrics import TrainMetrics
from lab.engine.training.timer import TrainingTimer
from lab.engine.utils.console import ignore_known_warnings
from lab.engine.utils.errors import Preempted, RunFailed, UserError

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
    run = Recorder(Path(cfg.paths.run_dir))
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    if run.is_finished(cfg):
        return run.metrics.get(cfg.objective.metric)
    if not first:
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.WARNING)
    try:
        with SignalHandler() as stop, run.recorded(cfg) if first else nullcontext():
            metrics = _train(cfg, run, stop)
            if first:
                run.save_metrics(metrics)
    except Preempted as stopped:
        if first:
            saved = (run.dir / "checkpoints" / "last.ckpt").is_file()
            what = f"go on with: python src/train.py resume={run.dir}" if saved else "no checkpoint was taken"
            log.info("stopped by %s; %s", stopped.signal.name, what)
            if stopped.signal in SLURM_SIGNALS:
                requeue()
        raise
    finally:
        _release_ranks()
    if first:
        told = {name: value for name, value in metrics.items() if not name.startswith("cost/")}
        log.info("%s", "  ".join(f"{name} {value:.4f}" for name, value in told.items()))
        log.info("run directory: %s", run.dir)
    return metrics.get(cfg.objective.metric)


def build(
    cfg: DictConfig, callbacks: Sequence[pl.Callback] = (), stop: SignalHandler | None = None
) -> tuple[Any, Any, pl.Trainer]:
    """Seeds, then makes the model, the data and the trainer of `cfg`.

    Args:
        cfg: the whole config.
        callbacks: more of them than it names.
        stop: what the training loop asks whether to stop; None for a run that nobody stops.
    """
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = instantiate(cfg.data)
    model = instantiate(cfg.model, optimizer=instantiate(cfg.optimizer), scheduler=instantiate(cfg.scheduler))
    if cfg.compile:
        compile_layers(model)
    loggers = instantiate_each(cfg.logger)
    callbacks = [TrainingTimer(), TrainMetrics(), *instantiate_each(cfg.callbacks), *callbacks]
    keeps = any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks)  # else Lightning adds its own
    own = {
        "callbacks": callbacks,
        "logger": loggers or False,
        "plugins": [AtomicCheckpointIO()],
        "enable_checkpointing": keeps,
    }
    trainer = instantiate(cfg.trainer, **own)
    loop.install(trainer, stop or SignalHandler(), quick=cfg.quick_loop)
    if isinstance(launcher := trainer.strategy.launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = Launcher(launcher, watchdog_of(trainer))
    return model, data, trainer


def _train(cfg: DictConfig, run: Recorder, stop: SignalHandler) -> dict[str, float]:
    checkpoint = newest(run) if cfg.resume else None
    kept = _go_on(checkpoint, cfg, run) if checkpoint else {}
    if (
        not checkpoint and run.dir.name.isdigit()
    ):  # a job of a sweep: begun before, maybe, and killed before its first checkpoint
        continue_curves(cfg, 0, run.dir.name)
    model, data, trainer = build(cfg, pruning_of(run.dir), stop)
    if kept:
        _check_fit(kept, model, cfg, checkpoint)
        trainer.fit_loop.over = run.record.get("trained") == limits(cfg)  # type: ignore[attr-defined]
    _lead_ranks_here(run, cfg, trainer)
    if trainer.global_rank:  # ranks begin with the same weights, and then draw their own dropout and noise
        torch.manual_seed(cfg.seed + trainer.global_rank)
    if trainer.is_global_zero:
        devices = f"{trainer.num_nodes * trainer.num_devices} x {trainer.strategy.root_device.type}"
        run.update(devices=devices, threads=torch.get_num_threads())  # sums depend on both
    watch = watchdog_of(trainer)
    watch.at_end = lambda status, cause: run.finish(status, error=cause)
    try:
        metrics = _fit_and_test(cfg, run, model, data, trainer, checkpoint, stop)
    except Exception as error:
        if told := _out_of_memory(error, cfg):
            error = RunFailed(told)
        raise watch.blame(error) or error from error
    finally:
        watch.end()
    for logger in trainer.loggers:
        log_hyperparameters(logger, cfg, metrics)
    return metrics


def _fit_and_test(
    cfg: DictConfig,
    run: Recorder,
    model: Any,
    data: Any,
    trainer: pl.Trainer,
    checkpoint: Path | None,
    stop: SignalHandler,
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if cfg.fit:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        pruned = next((c.step for c in trainer.callbacks if isinstance(c, Pruning) and c.pruned), 0)  # type: ignore[attr-defined]
        if trainer.is_global_zero:  # a run that is stopped while it is tested is not trained on
            run.update(**({"pruned": pruned} if pruned else {"trained": limits(cfg)}))
        if stop.signum:
            raise Preempted(stop.signum)
        keeper = next((c for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoint)), None)
        figures = (keeper.metrics if keeper else {}) | trainer.callback_metrics  # none, where nothing was left to train
        metrics |= {name: float(value) for name, value in figures.items() if name.startswith("train/")}
        objective = keeper.best_score if keeper else figures.get(cfg.objective.metric)
        if objective is not None:
            metrics[cfg.objective.metric] = float(objective)
        metrics |= cost(trainer, model)
        if keeper and (best := trainer.strategy.broadcast(keeper.best)):
            kept = read_checkpoint(best)
            metrics = {name: value for name, value in kept["metrics"].items() if name.startswith("val/")} | metrics
            # By rank 0's name, since others may know no directory but their own; and not by ckpt_path, where a moving
            # average would be replaced by the weights that it averages
            model.load_state_dict(kept["state_dict"])
        if pruned:
            return metrics
    if cfg.test:
        metrics |= trainer.test(model, datamodule=data, verbose=False)[0]
        metrics |= excess(metrics, data)
    return metrics


def _go_on(path: Path, cfg: DictConfig, run: Run) -> dict[str, Any]:
    """The checkpoint to go on with; loggers are told where their curves go on, and the log is."""
    checkpoint = read_checkpoint(path)
    steps = checkpoint.get("global_step", 0)
    log.info("going on from %s, after %d steps, in epoch %d", path, steps, checkpoint.get("epoch", 0) + 1)
    continue_curves(cfg, steps, run.dir.name)
    return checkpoint


def _check_fit(checkpoint: dict[str, Any], model: pl.LightningModule, cfg: DictConfig, path: Path | None) -> None:
    """Refuses the checkpoint of another model, which Lightning would tell of key by key, and an end that is past."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    if shapes != {name: value.shape for name, value in checkpoint.get("state_dict", {}).items()}:
        raise UserError(
            f"{path} is no checkpoint of this run's {type(model).__name__}: put its own back, or remove this one"
        )
    begun = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["started"]
    for key, done in (("max_epochs", begun), ("max_steps", checkpoint["global_step"])):
        if 0 <= (cfg.trainer[key] if cfg.trainer[key] is not None else -1) < done:
            raise UserError(f"trainer.{key}={cfg.trainer[key]}: the run has come to {done} already")


def _out_of_memory(error: BaseException, cfg: DictConfig) -> str | None:
    """What to do about a batch that does not fit into memory; None for any other error."""
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
        return None
    size, accumulate = cfg.data.batch_size, cfg.trainer.accumulate_grad_batches
    said = (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"out of memory with data.batch_size={size}: {said}\n"
        f"the same steps with half of it at a time: data.batch_size={max(1, size // 2)}"
        f" trainer.accumulate_grad_batches={2 * accumulate}\n"
        "or trainer.precision=bf16-mixed, or a smaller data.eval_batch_size if it was validation"
    )


def cost(trainer: pl.Trainer, model: pl.LightningModule) -> dict[str, float]:
    """What training took: epochs, optimizer steps, seconds, and how many numbers were trained."""
    clock = next(c for c in trainer.callbacks if isinstance(c, TrainingTimer))  # type: ignore[attr-defined]
    return {
        "cost/epochs": float(trainer.current_epoch),
        "cost/steps": float(trainer.global_step),
        "cost/seconds": round(clock.seconds, 3),
        "cost/parameters": float(sum(p.numel() for p in model.parameters() if p.requires_grad)),
    }


def excess(metrics: dict[str, float], data: Any) -> dict[str, float]:
    """How far each figure lies above what is best for it on this data, where `data.optimum` knows that."""
    return {f"{name}_excess": metrics[name] - best for name, best in data.optimum.items() if name in metrics}


def compile_layers(model: pl.LightningModule) -> None:
    """Compiles each layer of `model` in place: no name in its state changes."""
    for child in model.children():
        for layer in child if isinstance(child, nn.ModuleList) else [child]:  # a list is not called, its members are
            if not isinstance(layer, Metric | MetricCollection):
                layer.compile()


def _lead_ranks_here(run: Run, cfg: DictConfig, trainer: pl.Trainer) -> None:
    """Gives the processes that are started for the other ranks this very job and directory."""
    if HydraConfig.initialized() and isinstance(launcher := trainer.strategy.launcher, Launcher):
        launcher.command = attach_command(run.dir)
        launcher.cwd = HydraConfig.get().runtime.cwd


def _release_ranks() -> None:
    """Ends the group of processes that were started, so that the next job of a sweep can start its own."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        Launcher.release()
