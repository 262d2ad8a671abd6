"""A run used again by a script: its config with other data where that is asked for, and its data as it was prepared."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lab.catalog import classes
from lab.compose import ROOT, nearest
from lab.config import adapt, check, merge_overrides, parse_arguments
from lab.errors import UserError
from lab.runs import Run

if TYPE_CHECKING:
    import pytorch_lightning as pl

TASKS = ("Classifier", "Regressor", "LanguageModel", "VAE", "GAN")


def parse(words: Sequence[str], defaults: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """See `parse_arguments`; a word that is neither an argument nor a key of the data is refused with the nearest."""
    own, overrides = parse_arguments(words, defaults)
    for word in overrides:
        key = word.partition("=")[0]
        if key != "data" and "." not in key:
            raise UserError(
                f"{key}: no such argument{nearest(key, [*defaults, 'data'])}\nit takes: {', '.join(defaults)}"
            )
    return own, overrides


def with_data(run: Run, overrides: Sequence[str]) -> tuple[DictConfig, str, dict[str, Any]]:
    """The run's config on one device of this machine, with `overrides` of its data.

    Returns:
        The config, the name of its dataset, and what the model must be told of it, see `adapt`.
    """
    config = run.config
    config.trainer.accelerator, config.trainer.devices = "auto", 1  # this machine need not be the one it was trained on
    config, data = merge_overrides(config, run.choice("data"), overrides)
    if not _is_table(run.config) or not _is_table(config):
        check(config)
        return config, data, adapt(run.config, config)
    # Its columns and classes are in the checkpoint, and `restore` holds every file against them: none is read for dims,
    # and 2 stands for each, which every model takes
    with open_dict(config):
        config.dims = dict.fromkeys(re.findall(r"\$\{dims\.(\w+)", str(OmegaConf.to_container(config.model))), 2)
    check(config)
    return config, data, {}


def datamodule(run: Run, config: DictConfig, which: str) -> "pl.LightningDataModule":
    """The data of `config`, prepared as the run's training rows say in its checkpoint `which`."""
    data: Any = run.datamodule(config)
    if config.data._target_ == run.config.data._target_:
        preparation = run.preparation(which)
        if preparation:
            data.restore(preparation)
        elif _is_table(config):
            raise UserError(
                f"{run.checkpoint(which)} was written by an older version and does not say how its table was prepared:"
                " train again"
            )
    return data


def image_shape(config: DictConfig) -> list[int] | None:
    """(C, H, W) of the images that the data of `config` holds, None for other data."""
    dims = OmegaConf.to_container(config, resolve=False)["dims"]  # type: ignore[call-overload, index]
    return list(config.dims.image) if isinstance(dims, dict) and "image" in dims else None  # else a file is read for it


def task(target: str) -> str | None:
    """Which of `TASKS` a model of this package is for, read and not imported; None for another package's."""
    package, _, name = target.rpartition(".")
    known = classes(str(ROOT / "src" / "lab" / "models")) if package == "lab.models" else {}
    while name not in TASKS:
        bases = [b.id for b in known[name][1].bases if hasattr(b, "id")] if name in known else []
        if not bases:
            return None
        name = bases[0]
    return name


def _is_table(config: DictConfig) -> bool:
    return bool(config.data._target_ == "lab.data.CSV")
