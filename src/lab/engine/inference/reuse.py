"""Prepares a run's config for a script, with other data if the command line asks for it."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lab.engine.config.changes import merge_changes
from lab.engine.config.overrides import last_value
from lab.engine.config.validate import check_nodes, nodes, validate
from lab.engine.runs.run import Run
from lab.engine.utils.arguments import parse_arguments
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

UNITS = ("pixel_mean_std",)  # of `dims`: the units of the data, which a model may change without new weights


def parse(argv: Sequence[str], defaults: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Parses a script's arguments as `parse_arguments`, and refuses overrides that are not of the data.

    `paths.log_dir`, where `run=latest` is looked for, is an argument of every script.
    """
    defaults = defaults | {"paths.log_dir": ""}
    own, overrides = parse_arguments(argv, defaults)
    for word in overrides:
        key = word.partition("=")[0]
        if key != "data" and "." not in key:
            raise UserError(
                f"{key}: no such argument{nearest(key, [*defaults, 'data'])}\nit takes: {', '.join(defaults)}"
            )
    return own, overrides


def with_data(run: Run, overrides: Sequence[str]) -> tuple[DictConfig, str, dict[str, Any]]:
    """Returns the run's config for one device of this machine, with `overrides` of its data.

    Returns:
        The config, the name of its dataset, and the model arguments that follow it, see `check_data_compatibility`.
    """
    config = run.config
    with open_dict(config):
        config.trainer.accelerator, config.trainer.devices = "auto", 1  # need not be the machine it was trained on
        OmegaConf.update(config, "weights.path", None, force_add=True)  # the checkpoint has what became of them
    config = merge_changes(config, overrides, run.choices)
    check_nodes(nodes(config.data, "data") if config.data else ())
    own = run.choices.get("data") or run.choices.get("model")  # whose loaders they are
    data = last_value(overrides, "data") or str(own)
    if all(OmegaConf.is_interpolation(each, "dims") for each in (run.config, config)):
        # Columns and classes are in the checkpoint, and `restore` holds every file against them: none is read for dims
        return config, data, {}
    validate(config)
    return config, data, check_data_compatibility(run.config, config)


def data_dims(config: DictConfig) -> dict[str, Any]:
    """Returns the `dims` of the data of `config` as plain values; none if a file must be read for them."""
    if OmegaConf.is_interpolation(config, "dims") or not config.get("dims"):
        return {}
    found: Any = OmegaConf.to_container(config.dims, resolve=True)
    return found


def check_data_compatibility(before: DictConfig, after: DictConfig) -> dict[str, Any]:
    """Finds which arguments of a model change when the data of another config is used.

    Returns:
        Arguments of the model that describe the data's units; all others must be as they were.

    Raises:
        UserError: when the model was built for other data.
    """
    models: Any = [OmegaConf.to_container(config.model, resolve=True) for config in (before, after)]
    was, now = models
    changed = {key: value for key, value in now.items() if value != was[key]}
    raw: Any = OmegaConf.to_container(after.model, resolve=False)
    units = {f"${{dims.{name}}}" for name in UNITS}
    changes = {key: changed.pop(key) for key in list(changed) if raw[key] in units}
    for key, value in changed.items():
        raise UserError(f"the run's model has {key}={was[key]}, and this data would need {value}: train another model")
    return changes
