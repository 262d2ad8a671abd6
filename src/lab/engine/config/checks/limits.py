"""What the values of a config may be, where a type does not say it: choices, ranges, patterns."""

import re
from typing import Any

from omegaconf import DictConfig

from lab.engine.config.checks.values import outside, plain
from lab.engine.config.compose import get, leaves
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

# What stands here is written down nowhere that could be read without importing torch. `make check-configs` holds the
# lists against Lightning's own.
CHOICES: dict[str, list[Any]] = {
    "trainer.accelerator": ["auto", "cpu", "gpu", "cuda", "mps", "tpu"],
    "trainer.precision": [
        "32-true",
        "bf16-mixed",
        "16-mixed",
        "bf16-true",
        "16-true",
        "64-true",
        "transformer-engine",
        "transformer-engine-float16",
        "32",
        "16",
        "bf16",
        "64",
    ],
    "trainer.strategy": [
        "auto",
        "ddp",
        "ddp_find_unused_parameters_true",
        "ddp_find_unused_parameters_false",
        "ddp_spawn",
        "ddp_spawn_find_unused_parameters_true",
        "ddp_spawn_find_unused_parameters_false",
        "ddp_fork",
        "ddp_fork_find_unused_parameters_true",
        "ddp_fork_find_unused_parameters_false",
        "ddp_notebook",
        "ddp_notebook_find_unused_parameters_true",
        "ddp_notebook_find_unused_parameters_false",
        "fsdp",
        "fsdp_cpu_offload",
        "deepspeed",
        "deepspeed_stage_1",
        "deepspeed_stage_2",
        "deepspeed_stage_2_offload",
        "deepspeed_stage_3",
        "deepspeed_stage_3_offload",
        "deepspeed_stage_3_offload_nvme",
        "single_device",
        "single_tpu",
        "single_xla",
        "xla",
        "xla_debug",
    ],
    "trainer.gradient_clip_algorithm": [None, "norm", "value"],
    "trainer.profiler": [None, "simple", "advanced", "pytorch", "xla"],
    "objective.mode": ["min", "max"],
    "scheduler.interval": ["step", "epoch"],
}

# By the whole key, or by its last part wherever that stands. A list's elements are held against it one by one.
RANGES = {
    **dict.fromkeys(["seed", "hydra.sweeper.seeds"], "[0, 4294967295]"),
    "shuffle_seed": "[0, inf)",
    **dict.fromkeys(["dropout", "momentum", "betas", "collinearity", "dirty", "ema_decay", "decay"], "[0, 1)"),
    **dict.fromkeys(["label_smoothing", "warmup", "pct_start", "final"], "[0, 1]"),
    **dict.fromkeys(["val_share", "test_share", "factor"], "(0, 1)"),
    **dict.fromkeys(["lr", "weight_decay", "l1", "l2", "noise", "separation", "beta", "min_delta"], "[0, inf)"),
    **dict.fromkeys(["max_lr", "div_factor", "final_div_factor", "huber_delta", "concentration"], "(0, inf)"),
    **dict.fromkeys(
        ["batch_size", "eval_batch_size", "num_samples", "num_val", "num_test", "num_features", "context", "length"],
        "[1, inf)",
    ),
    **dict.fromkeys(["hidden_size", "hidden_sizes", "channels", "num_layers", "num_heads", "width"], "[1, inf)"),
    **dict.fromkeys(["latent_size", "patch_size", "max_iter", "history_size", "frequency"], "[1, inf)"),
    "num_classes": "[2, inf)",
    "patience": "[0, inf)",
    "interval": "(0, inf)",
    **dict.fromkeys(["trainer.max_epochs", "trainer.max_steps", "trainer.num_sanity_val_steps"], "[-1, inf)"),
    **dict.fromkeys(["trainer.min_epochs", "trainer.min_steps", "trainer.gradient_clip_val"], "[0, inf)"),
    "trainer.reload_dataloaders_every_n_epochs": "[0, inf)",
    **dict.fromkeys(["trainer.num_nodes", "trainer.accumulate_grad_batches"], "[1, inf)"),
    **dict.fromkeys(["trainer.log_every_n_steps", "trainer.check_val_every_n_epoch"], "[1, inf)"),
    **dict.fromkeys(["hydra.sweeper.n_trials", "hydra.sweeper.n_jobs", "hydra.sweeper.max_batch_size"], "[1, inf)"),
    "hydra.sweeper.timeout": "(0, inf)",
    "hydra.sweeper.max_failure_rate": "[0, 1]",
}

# A count of batches, or a share of an epoch's
PARTS = ["val_check_interval", *(f"limit_{stage}_batches" for stage in ("train", "val", "test", "predict"))]
PARTS += ["overfit_batches"]

PATTERNS = {
    "trainer.devices": (r"auto|-?\d+(, *\d+)*", "a number, a list of numbers, or auto"),
    "trainer.max_time": (r"\d+:\d\d:\d\d:\d\d", "days:hours:minutes:seconds, such as 00:12:00:00"),
    "monitor": (r"(?!test).+", "a metric of training or validation, such as val/loss"),
    "objective.metric": (r"(?!test).+", "a metric of training or validation, such as val/loss"),
}

LENGTHS = {"betas": 2, "image": 3, "pixels": 2}

LIMITED = {*RANGES, *PARTS, *PATTERNS, *LENGTHS}


def check_limits(key: str, value: Any) -> None:
    """Refuses a value that no config can hold at `key`.

    Raises:
        UserError: it says what was expected.
    """
    name = key.rpartition(".")[2]
    choices = CHOICES.get(key)
    if choices is not None and not isinstance(value, dict) and str(value) not in map(str, choices):
        known = ["null" if choice is None else choice for choice in choices]
        text = f"\nchoices: {', '.join(known)}"
        raise UserError(f"{key}={value}: no such choice{nearest(str(value), known)}{text}")
    if isinstance(value, list) and len(value) != LENGTHS.get(name, len(value)):
        raise UserError(f"{key}={value}: expected {LENGTHS[name]} numbers")
    interval = RANGES.get(key) or RANGES.get(name)
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if interval and outside(number, interval):
            raise UserError(f"{key}={value}: expected {_words(interval)}")
        if key.startswith("trainer.") and name in PARTS:
            low = "(0" if name == "val_check_interval" else "[0"
            if outside(number, f"{low}, 1]" if isinstance(number, float) else f"{low}, inf)"):
                raise UserError(f"{key}={value}: expected a whole number of batches, or a share of them up to 1.0")
    pattern, said = PATTERNS.get(key) or PATTERNS.get(name) or ("", "")
    if pattern and isinstance(value, str | int | float) and not re.fullmatch(pattern, str(value)):
        raise UserError(f"{key}={value}: expected {said}")


def check_every_limit(cfg: DictConfig) -> None:
    """Holds every value of a composed config against the tables, however it came there."""
    for key, value in leaves(cfg):
        if key in CHOICES or {key, key.rpartition(".")[2]} & LIMITED:
            if isinstance(value, str) and "${" in value:
                value = plain(get(cfg, key))
            check_limits(key, value)


def _words(interval: str) -> str:
    low, high = interval[1:-1].split(", ")
    if high == "inf":
        return f"a number above {low}" if interval[0] == "(" else f"{low} or more"
    ends = [" (not itself)" if bracket in "()" else "" for bracket in (interval[0], interval[-1])]
    return f"a number from {low}{ends[0]} to {high}{ends[1]}"
