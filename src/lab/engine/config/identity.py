"""Lists the keys that decide a result, for resuming, sweeps, the report and reproducing."""

import json
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.compose import leaves
from lab.engine.config.tree import is_under
from lab.engine.utils.errors import UserError

ABSENT = object()

# A run's directory, how it was started, and its sweep
PLACE = ("hydra", "paths", "sweep", "resume", "attach", "changes", "callbacks.pruning")
# How batches are loaded, and what is shown and logged meanwhile
SHOWN = (
    *("logger", "progress", "fast_loop", "trainer.enable_progress_bar"),
    *(f"data.{name}" for name in ("num_workers", "eval_batch_size", "resident")),
    *(f"callbacks.{name}" for name in ("progress", "watchdog", "summary", "learning_rate", "throughput")),
)
# How long it trains
LENGTHS = ("max_epochs", "max_steps", "max_time")
# What a resumed run must not change; the rest says how long it trains, and what is logged
FIXED = (
    *("data", "model", "weights", "optimizer", "scheduler", "objective", "dims", "seed", "matmul_precision"),
    *("callbacks.ema", "callbacks.finetune"),
    *(f"trainer.{key}" for key in ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")),
    *(f"trainer.{key}" for key in ("precision", "limit_train_batches", "overfit_batches", "fast_dev_run")),
)

# What does not change a result but by chance: runs that differ in nothing else are one group of the report
APART = {*PLACE, *SHOWN, "seed"} - {"paths"} | {f"paths.{name}" for name in ("root_dir", "log_dir", "run_dir")}


def comparable(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns `config` without the keys that do not change a result, and without its seed."""
    return {
        name: comparable(value, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in config.items()
        if f"{prefix}{name}" not in APART
    }


def group_key(config: dict[str, Any]) -> str:
    """Returns a text that is equal for the configs of runs that differ in their seed alone."""
    return json.dumps(comparable(config), sort_keys=True, default=str)


def differences(now: dict[str, Any], then: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields every key at which two configs differ, with both values; ABSENT for a missing one."""
    for name in [*then, *(name for name in now if name not in then)]:
        a, b = now.get(name, ABSENT), then.get(name, ABSENT)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{prefix}{name}.")
        elif a != b or type(a) is not type(b):
            yield f"{prefix}{name}", a, b


def check_fixed(before: DictConfig, after: DictConfig) -> None:
    """Refuses to resume a run with another model, data, optimizer, schedule or seed, or other weights to begin with.

    Raises:
        UserError: with the first key that would change.
    """
    was, now = (
        {key: value for key, value in leaves(config) if not isinstance(value, dict)} for config in (before, after)
    )
    for key in [*was, *now]:
        if is_under(key, FIXED) and key not in SHOWN and was.get(key) != now.get(key):
            raise UserError(
                f"{key} was {was.get(key)} in this run, and would be {now.get(key)}\n"
                "a resumed run keeps its model, data, optimizer, schedule and seed: leave it out,"
                " or begin a new run without resume="
            )


def training_limits(cfg: DictConfig) -> dict[str, Any]:
    """Returns the settings that end training, as plain values."""
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    early_stopping = (raw.get("callbacks") or {}).get("early_stopping")
    return {key: raw["trainer"].get(key) for key in LENGTHS} | {"early_stopping": early_stopping}
