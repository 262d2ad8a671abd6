"""What a config must hold, checked before torch is imported."""

import ctypes
import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from lab.answers import explained
from lab.build import authorize_names
from lab.catalog import arguments, classes, literals
from lab.compose import CONFIGS, ROOT, compose, leaves, nearest, options
from lab.errors import UserError
from lab.resume import settle

# What some fields of Trainer take besides the type of their default
ALSO: dict[str, tuple[Any, ...]] = {
    "trainer.deterministic": ("warn",),
    "trainer.fast_dev_run": (int,),
}
CHOICES = {
    "trainer.accelerator": ["auto", "cpu", "gpu", "cuda", "mps", "tpu"],
    "trainer.precision": [
        "32-true",
        "bf16-mixed",
        "16-mixed",
        "bf16-true",
        "16-true",
        "64-true",
        "32",
        "16",
        "bf16",
        "64",
    ],
    "objective.mode": ["min", "max"],
}


def check(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Holds a composed config against the types of its defaults, what its targets take, what its data offers and what
    this machine has.

    Args:
        cfg: the whole config.
        overrides: from the command line; their values are held against the types of what they replace.

    Raises:
        UserError: on the first thing that is wrong.
    """
    authorize_names(cfg)
    _check_types(overrides)
    _check_choices(cfg)
    _check_missing(cfg)
    if cfg.data.get("path") is not None:
        check_file(Path(cfg.data.path))  # before dims, which may be read from it
    _check_dims(cfg)
    for group in ("data", "model"):
        _check_arguments(group, cfg[group])
    _check_devices(cfg.trainer)


def adapt(before: DictConfig, after: DictConfig) -> dict[str, Any]:
    """What a model that was trained with one config must be told to be used with another one's data.

    Returns:
        Arguments of the model that describe the data's units; all others must be as they were.

    Raises:
        UserError: when the model was built for other data.
    """
    models: Any = [OmegaConf.to_container(config.model, resolve=True) for config in (before, after)]
    was, now = models
    changed = {key: value for key, value in now.items() if value != was[key]}
    told = {key: changed.pop(key) for key in ("pixels",) if key in changed}
    for key, value in changed.items():
        raise UserError(f"the run's model has {key}={was[key]}, and this data would need {value}: train another model")
    if before.data._target_ == after.data._target_ == "lab.data.CSV" and before.data != after.data:
        from lab.data.files import read_table

        tables = [read_table(*(c.data[key] for key in ("path", "target", "task", "drop"))) for c in (before, after)]
        for what, old, new in zip(
            ("columns", "classes"), *((table.columns, table.classes) for table in tables), strict=True
        ):
            if old != new:
                raise UserError(f"the run's model knows the {what} {old}, and {after.data.path} has {new}")
    return told


def check_file(path: Path, key: str = "data.path") -> None:
    """Refuses a `data.path`, or what another `key` names, where there is no file, with the nearest name beside it."""
    if path.is_dir():
        raise UserError(f"{key}={path} is a folder: give a file")
    if not path.exists():
        beside = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"{key}={path}: no such file{nearest(path.name, beside)}")


class Check(Callback):
    """Checks before Hydra makes a directory, so that a wrong command line leaves nothing behind."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with explained():
            job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            check(settle(job, config.hydra.overrides.task), config.hydra.overrides.task)
            directory = Path(config.hydra.run.dir)
            if (directory / "run.json").exists() and not job.resume:
                raise UserError(
                    f"{directory} holds a run already: go on with it by resume={directory},"
                    " or choose another hydra.run.dir"
                )


def parse_arguments(words: Sequence[str], defaults: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Splits a script's words into its own arguments, over their `defaults`, and overrides of the run's config."""
    own, overrides = dict(defaults), []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is no argument: write key=value, such as {next(iter(defaults))}=…")
        if name in defaults:
            own[name] = value
        else:
            overrides.append(word)
    return own, overrides


def merge_overrides(config: DictConfig, data: str, overrides: Sequence[str]) -> tuple[DictConfig, str]:
    """A run's config with overrides: `data=NAME` takes the whole dataset from configs/data, the rest are single values.

    Returns:
        The new config and the name of its dataset, `data` where none is given.
    """
    chosen = [word for word in overrides if word.startswith("data=")]
    single = [word for word in overrides if not word.startswith("data=")]
    if chosen:
        data = chosen[-1].partition("=")[2]
        fresh: Any = OmegaConf.to_container(compose([chosen[-1]]), resolve=False)
        with open_dict(config):
            config.data, config.dims = fresh["data"], fresh["dims"]
    OmegaConf.set_struct(config, True)
    known = [name for name, _ in leaves(config)]
    for word in single:
        key, _, value = word.partition("=")
        if key not in known:
            raise UserError(f"{key}: no such key{nearest(key, known)}")
        value = OmegaConf.from_dotlist([f"value={value}"]).value
        if expected := _mismatch(key, OmegaConf.select(config, key), value):
            raise UserError(f"{word}: expected {expected}")
        OmegaConf.update(config, key, value)
    return config, data


def _check_types(overrides: Sequence[str]) -> None:
    """A value must be of the type of the default that it replaces."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    given = [o for o in parsed if not options(o.key_or_group) and not o.is_add() and not o.is_delete()]
    if not given:
        return
    defaults = compose([o.input_line for o in parsed if options(o.key_or_group) and o.input_line])
    for override in given:
        key, value = override.key_or_group, override.value()
        default = OmegaConf.select(defaults, key, throw_on_missing=False, throw_on_resolution_failure=False)
        expected = _mismatch(key, default, value)
        if expected:
            raise UserError(f"{key}={_plain(value)}: expected {expected}, like its default {_plain(default)}")


def _mismatch(key: str, default: Any, value: Any) -> str | None:
    """What `value` should have been, None where it fits."""
    if any(value == also or (isinstance(also, type) and isinstance(value, also)) for also in ALSO.get(key, ())):
        return None
    if default is None:
        return None
    if value is None:
        return None if key.startswith("trainer.") or OmegaConf.is_config(default) else "a value"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        return None if number and isinstance(value, int) else "a whole number"
    if isinstance(default, float):
        return None if number else "a number"
    if isinstance(default, ListConfig):
        return None if isinstance(value, list) else "a list"
    if isinstance(default, DictConfig):
        return None if isinstance(value, dict) else "a mapping of keys to values"
    return "one value" if isinstance(value, dict) else None


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else str(value)


def _check_choices(cfg: DictConfig) -> None:
    for key, choices in CHOICES.items():
        value = str(OmegaConf.select(cfg, key))
        if value not in choices:
            raise UserError(f"{key}={value}: no such choice{nearest(value, choices)}\nchoices: {', '.join(choices)}")


def _check_dims(cfg: DictConfig) -> None:
    """What the model reads of `dims` the data must offer."""
    needs, offers = _needs(OmegaConf.to_container(cfg.model, resolve=False)), set(cfg.dims)
    lacking = sorted(needs - offers)
    if lacking:
        models, datasets = _files("model"), _files("data")
        model, data = (_choice(group, cfg[group]._target_) for group in ("model", "data"))
        fitting_data = [name for name, other in datasets.items() if needs <= _offers(other)]
        fitting_models = [name for name, other in models.items() if _needs(other["model"]) <= offers]
        raise UserError(
            f"model={model} does not fit data={data}: it needs dims.{', dims.'.join(lacking)},"
            f" and the data offers {', '.join(cfg.dims)}\n"
            f"data that fits {model}: {', '.join(fitting_data) or 'none'}\n"
            f"models that fit {data}: {', '.join(fitting_models) or 'none'}"
        )


def _needs(model: Any) -> set[str]:
    return set(re.findall(r"\$\{dims\.(\w+)", str(model)))


def _offers(config: dict[str, Any]) -> set[str]:
    return set(config["dims"]) if isinstance(config["dims"], dict) else set()  # else a file must be read for it


@cache
def _files(group: str) -> dict[str, dict[str, Any]]:
    """Every choice of a group as it stands in its file; OmegaConf would take seven times as long to read them."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return {path.stem: yaml.load(path.read_text(), loader) for path in sorted((CONFIGS / group).glob("*.yaml"))}


def _choice(group: str, target: str) -> str:
    """The name of the choice that has this class."""
    return next((name for name, config in _files(group).items() if config[group]["_target_"] == target), target)


def _check_missing(cfg: DictConfig) -> None:
    missing = [key for key, value in leaves(cfg) if value == "???"]
    if missing:
        raise UserError(f"{missing[0]} has no value: give one, {missing[0]}=…")


def _check_arguments(group: str, node: DictConfig) -> None:
    """Holds a node's keys and values against the arguments of its class and their `Literal`s: read, not imported."""
    package, _, name = str(node.get("_target_")).rpartition(".")
    if package not in ("lab.models", "lab.data"):
        return
    known = classes(str(ROOT / "src" / package.replace(".", "/")))
    if name not in known:
        raise UserError(f"{group}._target_={package}.{name}: no such class{nearest(name, known)}")
    taken, required = arguments(name, known)
    given = {str(key): node[key] for key in node if not str(key).startswith("_")}
    for key, value in given.items():
        if key not in taken:
            raise UserError(f"{group}.{key}: {name} takes no such argument{nearest(key, taken)}")
        choices = literals(taken[key])
        if choices and value not in choices:
            text = ", ".join(map(str, choices))
            raise UserError(
                f"{group}.{key}={value}: no such choice{nearest(str(value), map(str, choices))}\nchoices: {text}"
            )
    for key in required:
        if key not in given:
            raise UserError(f"{group}.{key} has no value, and {name} needs one: give {group}.{key}=…")


def _check_devices(trainer: DictConfig) -> None:
    """A GPU that is asked for must be there; NVIDIA's are counted through their driver, since torch takes seconds."""
    if trainer.accelerator not in ("gpu", "cuda"):
        return
    devices = trainer.devices
    wanted = devices if isinstance(devices, int) else max(devices) + 1 if isinstance(devices, ListConfig) else 1
    found = count_gpus()
    if found < wanted:
        raise UserError(
            f"trainer.accelerator={trainer.accelerator}, devices={trainer.devices}: this machine has {found} GPUs\n"
            "use trainer=auto or trainer=cpu for one process, trainer=ddp_cpu for two processes without a GPU"
        )


def count_gpus() -> int:
    """GPUs that torch will see: NVIDIA's by their driver, narrowed by CUDA_VISIBLE_DEVICES; others are trusted."""
    if sys.platform == "darwin" or Path("/dev/kfd").exists():
        return 1
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1" if os.name != "nt" else "nvml.dll")
    except OSError:
        return 0
    count = ctypes.c_uint(0)
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        count.value
        if visible is None
        else min(count.value, len([v for v in visible.split(",") if v not in ("", "-1")]))
    )
