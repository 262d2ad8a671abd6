"""A run used again by a script: its config with other data where that is asked for, and its data as it was prepared."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lab.engine.cli.arguments import parse_arguments
from lab.engine.config.checks import signatures
from lab.engine.config.checks.overrides import mismatch
from lab.engine.config.compose import compose, leaves
from lab.engine.config.validate import validate
from lab.engine.runs.run import Run
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

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
        The config, the name of its dataset, and what the model must be told of it, see `check_data_compatibility`.
    """
    config = run.config
    config.trainer.accelerator, config.trainer.devices = "auto", 1  # this machine need not be the one it was trained on
    config, data = merge_overrides(config, run.choice("data"), overrides)
    if not _is_table(run.config) or not _is_table(config):
        validate(config)
        return config, data, check_data_compatibility(run.config, config)
    # Its columns and classes are in the checkpoint, and `restore` holds every file against them: none is read for dims,
    # and 2 stands for each, which every model takes
    with open_dict(config):
        config.dims = dict.fromkeys(re.findall(r"\$\{dims\.(\w+)", str(OmegaConf.to_container(config.model))), 2)
    validate(config)
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
    module, _, name = target.rpartition(".")
    while name not in TASKS:
        found = signatures.find(module, name) if target.startswith("lab.") else None
        above = signatures.bases(*found) if found else []  # type: ignore[arg-type]
        if not above:
            return None
        module, name = above[0][0], above[0][1].name
    return name


def _is_table(config: DictConfig) -> bool:
    return bool(config.data._target_ == "lab.data.csv.CSV")


def check_data_compatibility(before: DictConfig, after: DictConfig) -> dict[str, Any]:
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
    return told


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
        if expected := mismatch(config, key, value):
            raise UserError(f"{word}: expected {expected}")
        OmegaConf.update(config, key, value)
    return config, data
