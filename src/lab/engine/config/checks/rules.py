"""What does not go together, said before torch is imported: each function is one rule, and raises UserError."""

from omegaconf import DictConfig

from lab.engine.config.checks import signatures
from lab.engine.config.checks.devices import devices, precision, samples_of, shared_batch
from lab.engine.config.compose import get
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError


def check_rules(cfg: DictConfig) -> None:
    """Holds a composed config against every rule."""
    for rule in (extras, devices, precision, shared_batch, splits, schedule, validation, watchers, work):
        rule(cfg)


def extras(cfg: DictConfig) -> None:
    """A logger's package is there."""
    for name, package in (("wandb", "wandb"), ("mlflow", "mlflow")):
        if get(cfg, f"logger.{name}") is not None and not machine.has_package(package):
            raise UserError(f"logger={name}: the package {package} is not installed: pip install -e .[{name}]")


def splits(cfg: DictConfig) -> None:
    """Something is left to train on."""
    held, total = get(cfg, "data.num_val"), get(cfg, "data.num_samples")
    if isinstance(held, int) and isinstance(total, int) and held >= total:
        raise UserError(f"data.num_val={held}: expected less than data.num_samples={total}, of which it is a part")


def schedule(cfg: DictConfig) -> None:
    """A schedule goes with its optimizer, and one that is laid out over the whole fit has an end."""
    target = get(cfg, "scheduler.scheduler._target_")
    if not cfg.fit or not target:
        return
    takes = signatures.read(target)
    ends = any(
        isinstance(get(cfg, f"trainer.{key}"), int) and cfg.trainer[key] > 0 for key in ("max_epochs", "max_steps")
    )
    if takes and "total_steps" in takes.kinds and not ends and not get(cfg, "trainer.fast_dev_run"):
        raise UserError(
            f"{target.rpartition('.')[2]} needs an end, and trainer.max_epochs={get(cfg, 'trainer.max_epochs')}"
            f" gives none: set trainer.max_epochs or trainer.max_steps, or use scheduler=none"
        )
    if target.endswith((".OneCycle", ".OneCycleLR")) and get(cfg, "scheduler.scheduler.cycle_momentum") is not False:
        optimizer = signatures.read(str(cfg.optimizer.get("_target_")))
        named = {*(optimizer.kinds if optimizer else {}), *cfg.optimizer}
        if optimizer and not optimizer.open and not {"momentum", "betas"} & named:
            raise UserError(
                f"{cfg.optimizer._target_.rpartition('.')[2]} has no momentum for OneCycle to move: use"
                " scheduler=none, scheduler=cosine, or +scheduler.scheduler.cycle_momentum=false"
            )
    for least, most in (("min_epochs", "max_epochs"), ("min_steps", "max_steps")):
        low, high = get(cfg, f"trainer.{least}"), get(cfg, f"trainer.{most}")
        if isinstance(low, int) and isinstance(high, int) and low > high >= 0:
            raise UserError(f"trainer.{least}={low} is more than trainer.{most}={high}")


def validation(cfg: DictConfig) -> None:
    """What watches a metric of validation needs one, and a metric of training or validation."""
    trainer = cfg.trainer
    if not cfg.fit or get(cfg, "trainer.fast_dev_run"):
        return
    every, epochs, interval = (
        get(cfg, f"trainer.{k}") for k in ("check_val_every_n_epoch", "max_epochs", "val_check_interval")
    )
    if every is None and not isinstance(interval, int | str) and "check_val_every_n_epoch" in trainer:
        raise UserError("trainer.check_val_every_n_epoch=null: then trainer.val_check_interval must count batches")
    cause = ""
    if trainer.get("limit_val_batches") == 0:
        cause = f"trainer.limit_val_batches={trainer.limit_val_batches}"
    elif isinstance(every, int) and isinstance(epochs, int) and 0 < epochs < every:
        cause = f"trainer.check_val_every_n_epoch={every}, max_epochs={epochs}"
    watching = [(f"callbacks.{name}", node) for name, node in (get(cfg, "callbacks") or {}).items()]
    for key, node in [("scheduler", get(cfg, "scheduler")), *watching]:
        if not isinstance(node, DictConfig) or not cause or "Checkpoint" in str(node.get("_target_")):
            continue  # a run without validation keeps its last checkpoint
        if str(get(cfg, f"{key}.monitor")).startswith("val/"):
            drop = "scheduler=none" if key == "scheduler" else f"{key}=null"
            raise UserError(f"{key} watches {get(cfg, f'{key}.monitor')}, and {cause} leaves out validation: {drop}")
    samples, size = samples_of(cfg), get(cfg, "data.batch_size")
    if (
        isinstance(interval, int)
        and not isinstance(interval, bool)
        and every is not None
        and samples
        and isinstance(size, int)
    ):
        batches = max(1, samples // size)
        if interval > batches:
            raise UserError(
                f"trainer.val_check_interval={interval}: an epoch has {batches} batches; give at most as many, or"
                " trainer.check_val_every_n_epoch=null to count on over epochs"
            )


def watchers(cfg: DictConfig) -> None:
    """Callbacks have what they write to, and the trainer does not forbid them."""
    chosen = {name: str(node.get("_target_")).rpartition(".")[2] for name, node in _nodes(cfg, "callbacks")}
    for group in ("callbacks", "logger"):
        if group in cfg.trainer:
            raise UserError(f"trainer.{group}: they are a group of their own, {group}.NAME")
    for name, target in chosen.items():
        if target == "LearningRateMonitor" and not _nodes(cfg, "logger") and cfg.fit:
            raise UserError(f"callbacks.{name} has no logger to write to: use logger=none, or callbacks.{name}=null")
        for field, kind in (("enable_checkpointing", "Checkpoint"), ("enable_progress_bar", "Progress")):
            if kind in target and get(cfg, f"trainer.{field}") is False:
                raise UserError(f"trainer.{field}=false, and callbacks.{name} is a {target}: callbacks.{name}=null")


def work(cfg: DictConfig) -> None:
    """There is something to do."""
    if not cfg.fit and not cfg.test:
        raise UserError("fit=false test=false: nothing is left to do")


def _nodes(cfg: DictConfig, group: str) -> list[tuple[str, DictConfig]]:
    named = get(cfg, group)
    items = named.items() if isinstance(named, DictConfig) else []
    return [(str(name), node) for name, node in items if isinstance(node, DictConfig)]
