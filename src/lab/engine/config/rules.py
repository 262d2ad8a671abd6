"""Refuses values that contradict each other or this machine: each function is one rule and raises UserError."""

import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from lab.engine.config.compose import get
from lab.engine.config.schema_cache import cached_schema
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import check_file
from lab.engine.utils.processes import torchrun_ranks, world_size

SCHEDULER = "scheduler.scheduler"
# Of loggers
PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet_ml", "NeptuneLogger": "neptune"}
VALIDATION = ("val/", "val_")  # how metrics of validation begin, ours and most people's
# Of values of the trainer, by how they begin; Lightning would look for them after the data are loaded
TRAINER_PACKAGES = {
    ("strategy", "deepspeed"): "deepspeed",
    **{("strategy", name): "torch_xla" for name in ("xla", "single_xla", "single_tpu")},
    ("profiler", "xla"): "torch_xla",
    ("precision", "transformer-engine"): "transformer_engine",
}
MIXED = ("16", "16-mixed", "bf16", "bf16-mixed")  # names of a precision
DOUBLE = ("64", "64-true")
FORKING = ("spawn", "fork", "notebook")  # strategies whose ranks Lightning forks or spawns


def extras(cfg: DictConfig) -> None:
    """Refuses a logger or a choice of the trainer whose package is not installed."""
    for (field, start), needed in TRAINER_PACKAGES.items():
        if str(value := get(cfg, f"trainer.{field}")).startswith(start) and not machine.has_package(needed):
            raise UserError(f"trainer.{field}={value}: the package {needed} is not installed: pip install {needed}")
    for key, node in _named(cfg, "logger"):
        package = PACKAGES.get(str(node.get("_target_")).rpartition(".")[2])
        if package and not machine.has_package(package):
            extra = package in ("wandb", "mlflow")
            name, source = (f"logger={package}", f"-e .[{package}]") if extra else (f"logger.{key}", package)
            raise UserError(f"{name}: the package {package} is not installed: pip install {source}")


def devices(cfg: DictConfig) -> None:
    """Refuses an accelerator that this machine lacks, more devices than it has, and a choice among CPUs."""
    accelerator, wanted = _devices(cfg)
    listed = list(wanted) if isinstance(wanted, ListConfig) else []
    for name, is_there in (("mps", sys.platform == "darwin"), ("tpu", machine.has_package("torch_xla"))):
        if accelerator == name and not is_there:
            raise UserError(f"trainer.accelerator={name}: this machine has none; use trainer=auto")
    if accelerator == "mps" and isinstance(wanted, int) and wanted > 1:
        raise UserError(f"trainer.devices={wanted}: a Mac has one GPU: use trainer.devices=1")
    least = max(1, wanted) if isinstance(wanted, int) else max(listed, default=0) + 1
    if accelerator in ("gpu", "cuda") and (count := machine.count_gpus()) < least:
        raise UserError(
            f"trainer.accelerator={accelerator}, devices={wanted}: this machine has {count} GPUs\n"
            "use trainer=auto or trainer=cpu for one process, trainer=ddp_cpu for two processes without a GPU"
        )


def cpu_devices(cfg: DictConfig) -> None:
    """Refuses what only GPUs can be, all of them or some by number, for a run on the CPU."""
    wanted = _devices(cfg)[1]
    is_none = re.fullmatch(r"-\d+|0+", str(wanted)) is not None
    if on_cpu(cfg) and (isinstance(wanted, ListConfig) or "," in str(wanted) or is_none):
        raise UserError(f"trainer.devices={wanted}: on CPUs it is a number of processes, so give 1 or more")


def precision(cfg: DictConfig) -> None:
    """Refuses 16 bits on a CPU: Lightning would take bfloat16 for 16-mixed, and 16-true soon ends in NaN.

    Refuses 64 bits on a Mac's GPU, which has none, and to clip under mixed precision with a fused optimizer, which
    Lightning refuses at the first step.
    """
    wanted, accelerator = str(get(cfg, "trainer.precision")), _devices(cfg)[0]
    if on_cpu(cfg) and (wanted in ("16", "16-mixed", "16-true") or wanted.startswith("transformer-engine")):
        raise UserError(
            f"trainer.precision={wanted} needs a GPU, and this run is on the CPU: use bf16-mixed or 32-true"
        )
    if wanted in DOUBLE and sys.platform == "darwin" and accelerator != "cpu":
        raise UserError(f"trainer.precision={wanted}: a Mac's GPU has no 64-bit numbers: use trainer=cpu or 32-true")
    clip, is_fused = get(cfg, "trainer.gradient_clip_val"), get(cfg, "optimizer.fused") is True
    if cfg.fit and clip and wanted in MIXED and is_fused and "optimizer" in _arguments(get(cfg, "model._target_")):
        raise UserError(
            f"trainer.gradient_clip_val={clip}, precision={wanted}: fused optimizers do not clip under mixed precision:"
            " use optimizer.fused=false"
        )


def compiler(cfg: DictConfig) -> None:
    """Refuses to compile a model where torch.compile would not find what it builds kernels with."""
    if not cfg.compile:
        return
    language, name = ("C++", "CXX") if on_cpu(cfg) else ("C", "CC")
    if not machine.find_compiler(name):
        raise UserError(
            f"compile={cfg.compile} needs a {language} compiler, and this machine has none: install g++,"
            f" or set the variable {name}, or use compile=false"
        )
    if not machine.has_python_headers():
        raise UserError(
            f"compile={cfg.compile} needs Python.h, the headers of Python, which this machine lacks: install"
            " python3-dev, or use compile=false"
        )


def strategy(cfg: DictConfig) -> None:
    """Refuses ranks that are forked or spawned, which keep the best weights to themselves, and FSDP on a CPU."""
    node = get(cfg, "trainer.strategy")
    name = str(get(node, "_target_")) if isinstance(node, DictConfig) else str(node)
    method = str(get(node, "start_method")) if isinstance(node, DictConfig) else name
    if any(word in method for word in FORKING):
        raise UserError(f"trainer.strategy={name}: forked processes return neither weights nor figures: use ddp")
    if "fsdp" in name.lower() and on_cpu(cfg):
        raise UserError(f"trainer.strategy={name} needs GPUs, and this run is on the CPU: use trainer=ddp_cpu")


def shared_batch(cfg: DictConfig) -> None:
    """Refuses a batch size that the processes cannot share in equal parts, such as 127 between two."""
    size, samples, ranks = _int(cfg, "data.batch_size"), _num_samples(cfg), processes(cfg)
    if not cfg.fit or size is None or ranks is None:
        return
    if get(cfg, "data.shuffle_seed") is None:  # each rank has its own batches
        return
    # A batch larger than the data means all samples. A file's number of samples is unknown: above 2^16 means all, too.
    size = min(size, samples or (size if size <= 2**16 else ranks))
    if size % ranks:
        below = size // ranks * ranks
        every_sample = "" if size == cfg.data.batch_size else f", which is all {size} samples,"
        raise UserError(
            f"data.batch_size={cfg.data.batch_size}{every_sample} cannot be shared by {ranks} processes"
            f" ({_whose(cfg)})\n"
            f"the nearest sizes that can: {f'{below} and ' if below else ''}{below + ranks}"
        )


def limits(cfg: DictConfig) -> None:
    """Refuses trainer.min_epochs above max_epochs, data.num_val that leaves nothing to train on, and ignored limits."""
    bounds = [("data.num_val", "data.num_samples", 1)]
    if is_trained := cfg.fit and not get(cfg, "trainer.fast_dev_run"):  # which sets limits of its own
        bounds += [(f"trainer.min_{unit}", f"trainer.max_{unit}", 0) for unit in ("epochs", "steps")]
    for low, high, gap in bounds:
        least, most = _int(cfg, low), _int(cfg, high)
        if least is not None and most is not None and least + gap > most >= 0:
            raise UserError(f"{low}={least}: expected {'less than' if gap else 'at most'} {high}={most}")
    for key in ("max_epochs", "max_steps") if is_trained else ():
        if get(cfg, f"trainer.{key}") == 0:
            raise UserError(f"trainer.{key}=0 leaves nothing to train: use fit=false")
    overfit = is_trained and get(cfg, "trainer.overfit_batches")
    for key in ("limit_train_batches", "limit_val_batches") if overfit else ():
        if (limit := get(cfg, f"trainer.{key}")) is not None:
            raise UserError(f"trainer.{key}={limit} would be ignored: trainer.overfit_batches={overfit} limits both")


def schedule(cfg: DictConfig) -> None:
    """Refuses a schedule over the whole fit without an end or with a frequency, and OneCycle without a momentum."""
    target = get(cfg, f"{SCHEDULER}._target_")
    if not cfg.fit or not target:
        return
    has_end = any((_int(cfg, f"trainer.{key}") or 0) > 0 for key in ("max_epochs", "max_steps", "fast_dev_run"))
    if "total_steps" in _arguments(target) and not has_end:
        raise UserError(
            f"{target.rpartition('.')[2]} needs an end, and trainer.max_epochs={get(cfg, 'trainer.max_epochs')}"
            f" gives none: set trainer.max_epochs or trainer.max_steps, or use scheduler=none"
        )
    if "total_steps" in _arguments(target) and (frequency := get(cfg, "scheduler.frequency") or 1) != 1:
        raise UserError(
            f"scheduler.frequency={frequency}: {target.rpartition('.')[2]} is stepped after each"
            f" {get(cfg, 'scheduler.interval') or 'epoch'} of the fit, which ends with it: use scheduler.frequency=1"
        )
    cycles = target.endswith((".OneCycle", ".OneCycleLR")) and get(cfg, f"{SCHEDULER}.cycle_momentum") is not False
    optimizer = _arguments(get(cfg, "optimizer._target_"))
    if cycles and optimizer and not {"momentum", "betas"} & optimizer:
        raise UserError(
            f"{cfg.optimizer._target_.rpartition('.')[2]} has no momentum for OneCycle to move: use"
            " scheduler=none, scheduler=cosine, or +scheduler.scheduler.cycle_momentum=false"
        )


def monitors(cfg: DictConfig) -> None:
    """Refuses to monitor a metric of the test set."""
    monitored = [("objective.metric", get(cfg, "objective.metric"))]
    monitored += [(f"{key}.monitor", get(node, "monitor")) for key, node in _monitors(cfg)]
    for key, metric in monitored:
        if str(metric).startswith("test"):
            raise UserError(f"{key}={metric}: expected a metric of training or validation, such as val/loss")


def validation(cfg: DictConfig) -> None:
    """Refuses to monitor a validation metric in a run without validation, and an interval that none fits in."""
    if not cfg.fit or get(cfg, "trainer.fast_dev_run"):
        return
    keys = ("check_val_every_n_epoch", "max_epochs", "val_check_interval", "limit_val_batches")
    every, epochs, interval, limit = (get(cfg, f"trainer.{key}") for key in keys)
    if every is None and not isinstance(interval, int | str) and "check_val_every_n_epoch" in cfg.trainer:
        raise UserError("trainer.check_val_every_n_epoch=null: then trainer.val_check_interval must count batches")
    monitor, frequency = str(get(cfg, "scheduler.monitor")), get(cfg, "scheduler.frequency")
    looks, by_validation = frequency or 1, monitor.startswith(VALIDATION)
    by_epoch = monitor != "None" and get(cfg, "scheduler.interval") != "step"
    never = every is None and (by_validation or frequency is None)
    if by_epoch and "check_val_every_n_epoch" in cfg.trainer and (never or (by_validation and looks % every)):
        remedy = f"frequency={every}" if every else "interval=step, and frequency counts batches"
        raise UserError(
            f"scheduler.frequency={looks}: the scheduler asks for {monitor} every {looks} epochs, and"
            f" trainer.check_val_every_n_epoch={every} leaves out some: use scheduler.{remedy}"
        )
    batches = _num_batches(cfg)
    by_step = by_validation and not by_epoch and get(cfg, "scheduler.strict") is not False
    between = _between_validations(interval, batches)
    if by_step and limit != 0 and (looks % between if between else looks == 1):
        raise UserError(
            f"scheduler.frequency={looks}: the scheduler asks for {monitor} every {looks} batches, and validations are"
            f" {between or 'more'} batches apart: use scheduler.interval=epoch, or a frequency that is a multiple"
        )
    cause = f"trainer.limit_val_batches={limit}" if limit == 0 else ""
    if not cause and isinstance(every, int) and isinstance(epochs, int) and 0 < epochs < every:
        cause = f"trainer.check_val_every_n_epoch={every}, max_epochs={epochs}"
    for key, node in _monitors(cfg) if cause else []:
        # a run without validation keeps its last checkpoint
        if "Checkpoint" not in str(node.get("_target_")) and str(get(node, "monitor")).startswith(VALIDATION):
            drop = "scheduler=none" if key == "scheduler" else f"{key}=null"
            raise UserError(f"{key} monitors {get(node, 'monitor')}, and {cause} leaves out validation: {drop}")
    if type(interval) is int and every is not None and limit != 0 and batches and interval > batches:
        raise UserError(
            f"trainer.val_check_interval={interval}: an epoch has {batches} batches; give at most as many, or"
            " trainer.check_val_every_n_epoch=null to count on over epochs"
        )


def weights(cfg: DictConfig) -> None:
    """Refuses to begin with weights that are not there; a resumed run does not read them again."""
    if (path := get(cfg, "weights.path")) is not None and not cfg.resume:
        check_file(Path(path), "weights.path")


def outlets(cfg: DictConfig) -> None:
    """Refuses callbacks that have no logger to write to (logger=none), or that the trainer's settings forbid."""
    for group in ("callbacks", "logger"):
        if group in cfg.trainer:
            raise UserError(f"trainer.{group}: they are a group of their own, {group}.NAME")
    if get(cfg, "trainer.barebones"):
        raise UserError("trainer.barebones=true leaves out logging and checkpoints: use logger=none callbacks=none")
    plugins = [str(get(node, "_target_")).rpartition(".")[2] for node in get(cfg, "trainer.plugins") or ()]
    if any(name.endswith("CheckpointIO") and name != "AtomicCheckpointIO" for name in plugins):
        raise UserError("trainer.plugins: checkpoints are written by lab itself, whole or not at all: leave it out")
    for name, node in _named(cfg, "callbacks"):
        target = str(node.get("_target_")).rpartition(".")[2]
        if target == "LearningRateMonitor" and not _named(cfg, "logger") and cfg.fit:
            raise UserError(f"callbacks.{name} has no logger to write to: use logger=none, or callbacks.{name}=null")
        for field, kind in (("enable_checkpointing", "Checkpoint"), ("enable_progress_bar", "Progress")):
            if kind in target and get(cfg, f"trainer.{field}") is False:
                raise UserError(f"trainer.{field}=false, and callbacks.{name} is a {target}: callbacks.{name}=null")


def work(cfg: DictConfig) -> None:
    """Refuses a run that neither trains nor tests: fit=false test=false."""
    if not cfg.fit and not cfg.test:
        raise UserError("fit=false test=false: nothing is left to do")


RULES = (
    *(extras, devices, precision, compiler, strategy, shared_batch, limits),
    *(schedule, monitors, validation, weights, outlets, work),
)


def processes(cfg: DictConfig) -> int | None:
    """Returns how many processes will train; None if that is not known before they start."""
    if torchrun_ranks():
        return world_size()
    (accelerator, wanted), nodes = _devices(cfg), get(cfg, "trainer.num_nodes") or 1
    if isinstance(wanted, ListConfig):
        return len(wanted) * nodes
    if str(wanted).isdigit() and int(wanted) > 0:
        return int(wanted) * nodes
    if accelerator in ("gpu", "cuda", "auto") and wanted in (-1, "auto"):
        return max(1, machine.count_gpus()) * nodes
    return nodes if accelerator in ("cpu", "mps") and wanted == "auto" else None


def _whose(cfg: DictConfig) -> str:
    """Says where the number of processes comes from."""
    if torchrun_ranks():
        return "torchrun's"
    return f"trainer.devices={_devices(cfg)[1]}, num_nodes={get(cfg, 'trainer.num_nodes') or 1}"


def on_cpu(cfg: DictConfig) -> bool:
    """Tells whether the run trains on the CPU, by its choice or because this machine has nothing else."""
    accelerator = _devices(cfg)[0]
    return accelerator == "cpu" or (accelerator == "auto" and machine.count_gpus() == 0)


def _devices(cfg: DictConfig) -> tuple[Any, Any]:
    """Returns `trainer.accelerator` and `trainer.devices`, or Lightning's defaults."""
    wanted = [get(cfg, f"trainer.{key}") for key in ("accelerator", "devices")]
    return "auto" if wanted[0] is None else wanted[0], "auto" if wanted[1] is None else wanted[1]


def _num_samples(cfg: DictConfig) -> int | None:
    """Returns the number of training samples; None where the config does not say it."""
    total, num_val = _int(cfg, "data.num_samples"), get(cfg, "data.num_val")
    if total is None or not isinstance(num_val, int | float):
        return None
    return total - (num_val if isinstance(num_val, int) else round(num_val * total))


def _num_batches(cfg: DictConfig) -> int | None:
    """Returns the number of training batches of an epoch, as the trainer limits them; None where it is not known."""
    samples, size = _num_samples(cfg), _int(cfg, "data.batch_size")
    if not samples or not size:
        return None
    batches = max(1, samples // size)
    limit = get(cfg, "trainer.overfit_batches") or get(cfg, "trainer.limit_train_batches")
    if isinstance(limit, float):
        return int(batches * limit)
    return min(batches, limit) if isinstance(limit, int) else batches


def _between_validations(interval: Any, batches: int | None) -> int | None:
    """Returns how many of an epoch's `batches` lie between two validations; None where it is not known."""
    if type(interval) is int:
        return interval
    is_share = interval is None or isinstance(interval, float)  # else a time
    return int(batches * (interval or 1)) if batches and is_share else None


def _int(cfg: DictConfig, key: str) -> int | None:
    value = get(cfg, key)
    return value if isinstance(value, int) else None


def _arguments(target: Any) -> set[str]:
    """Returns the names of a class's arguments; none if it takes any name."""
    schema = cached_schema(str(target)) or {"properties": {}, "additionalProperties": True}
    return set() if schema["additionalProperties"] else set(schema["properties"])


def _named(cfg: DictConfig, group: str) -> list[tuple[str, DictConfig]]:
    items = (get(cfg, group) or {}).items()
    return [(str(name), node) for name, node in items if isinstance(node, DictConfig)]


def _monitors(cfg: DictConfig) -> list[tuple[str, DictConfig]]:
    """Returns the nodes that may monitor a metric, by their keys."""
    scheduler = [("scheduler", cfg.scheduler)] if isinstance(cfg.scheduler, DictConfig) else []
    return [*((f"callbacks.{name}", node) for name, node in _named(cfg, "callbacks")), *scheduler]
