"""What a config must hold, checked before torch is imported."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from lab.answers import explained
from lab.build import authorize_names
from lab.checks.arguments import check_arguments
from lab.checks.limits import check_every_limit
from lab.checks.overrides import check_groups, check_overrides, mismatch
from lab.checks.rules import check_rules
from lab.checks.sweepers import check_optuna, is_optuna, read_space
from lab.checks.sweeps import composed, jobs
from lab.compose import CONFIGS, compose, leaves, nearest, parse
from lab.errors import UserError
from lab.resume import is_first, settle
from lab.sweeps.constraints import check_constraints
from lab.sweeps.sweep import is_job
from lab.words import typed


def check(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Holds a composed config against the types of its defaults, what its targets take, what its data offers, what goes
    together and what this machine has.

    Args:
        cfg: the whole config.
        overrides: from the command line; their values are held against the types of what they replace.

    Raises:
        UserError: on the first thing that is wrong.
    """
    check_overrides(overrides)
    check_composed(cfg, overrides)


def check_composed(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """The part of `check` that looks at the config, not at how it came about."""
    authorize_names(cfg)
    _check_missing(cfg)
    if cfg.data.get("path") is not None:
        check_file(Path(cfg.data.path))  # before dims, which may be read from it
    _check_dims(cfg)
    check_every_limit(cfg)
    check_arguments(cfg, overrides)
    check_rules(cfg)


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
            words = typed(config.hydra.overrides.task)
            check(settle(job, words), words)
            given = not OmegaConf.is_interpolation(config.hydra.run, "dir")  # else it is a new one, with the time in it
            directory = Path(config.hydra.run.dir) if given else None
            # Lightning starts the other ranks in the directory of rank 0
            began = directory is not None and (directory / "run.json").exists() and not is_job(directory)
            if began and not job.resume and is_first():
                raise UserError(
                    f"{directory} holds a run already: go on with it by resume={directory},"
                    " or choose another hydra.run.dir"
                )

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first job is trained the last one is known to be right."""
        with explained():
            sweeper, words = config.hydra.sweeper, typed(config.hydra.overrides.task)
            check_groups(parse(words))
            space = read_space(sweeper, words)
            constraints = check_optuna(sweeper, space) if is_optuna(sweeper) else []
            check_overrides([*space.fixed, *composed(space)])
            made = []
            for job, overrides in jobs(space):
                check_composed(job, overrides)
                made.append(job)
            check_constraints(constraints, made)


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
        if expected := mismatch(config, key, value):
            raise UserError(f"{word}: expected {expected}")
        OmegaConf.update(config, key, value)
    return config, data


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
