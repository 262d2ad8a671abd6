"""Refuses harmful values that a composed config has from files; docs/security.md has the reasons.

Files may come from elsewhere; the command line and configs/hydra are the user's own, and trusted. `compose` calls
`authorize` for the command before `hydra.main` runs, and for every job of a sweep.
"""

import os
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.compat.hydra import BASIC_LAUNCHER, BASIC_SWEEPER
from lab.engine.config.composition_errors import behind
from lab.engine.config.drawn import RUN_DIR
from lab.engine.config.instantiate import authorize_name, locate
from lab.engine.config.overrides import override_key, override_value
from lab.engine.config.tree import is_under, map_strings, values
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import read_yaml
from lab.engine.utils.machine import has_package
from lab.engine.utils.paths import CONFIGS
from lab.engine.utils.project import project_settings
from lab.engine.utils.redaction import (
    QUERY,
    SECRET_KEY,
    TOKEN,
    command_line_references,
    is_plain,
    is_secret_name,
    secrets,
)

# What Hydra may build: callbacks, launchers, sweepers; its plugins are in the package hydra_plugins
BUILT = [
    *("lab.engine.sweeps.workers.Workers", "hydra.experimental.callbacks.LogJobReturnCallback", BASIC_LAUNCHER),
    *("hydra_plugins", "optuna.samplers", "optuna.pruners", *project_settings().get("allow", [])),
]
EXTRAS = {  # of pyproject.toml, with the launchers of configs/hydra/launcher
    "hydra_plugins.hydra_joblib_launcher": "joblib",
    "hydra_plugins.hydra_submitit_launcher": "submitit",
    "hydra_plugins.hydra_ray_launcher": "ray",
}
# A run's directory, its log handlers and its environment: by Hydra, configs/hydra or the command line alone
PINNED = [f"hydra.{key}" for key in ("run", "sweep", "job_logging", "hydra_logging", "job.env_set", "job.env_copy")]
PINNED += ["paths.run_dir"]
# Arguments of launchers that reach a shell, load code or pickles, or name a server: by the command line alone
SHELL = ["additional_parameters", "address", "initialization_commands", "python", "runtime_env", "setup"]
SHELL += ["setup_commands", "srun_args", "submitit_folder", "temp_folder"]
CHECKED_GROUPS = ["hydra", "callbacks", "logger", "paths", "sweep", "trainer"]
DESTINATIONS = ("dirpath", "save_dir", "default_root_dir")  # where Lightning's classes write

# scheme://user:password@, https://token@
PASSWORD = re.compile(r"://[^\s/?#'\"@]*:[^\s/?#'\"@]+@|https?://:?[^\s/?#'\"@:]+:?@")
ADDRESS = re.compile(r"(?<![\w+.-])(?!sqlite:///[^\s?#]*/mlflow\.db$)[a-z][\w+.-]*://\S+", re.IGNORECASE)


def authorize(config: DictConfig, overrides: Sequence[str] = (), trusted: Sequence[str] | None = None) -> None:
    """Refuses a config that would run code, overwrite files elsewhere, or save or send a secret.

    Args:
        config: as composed, or as a run has saved it, without its `hydra` node.
        overrides: that made it.
        trusted: those of them that the command line gave; all by default.

    Raises:
        UserError: with the key, and the remedy if the value is meant well.
    """
    raw: Any = OmegaConf.to_container(config, resolve=False)
    trusted_keys = _assigned_keys(overrides if trusted is None else trusted)
    copied = OmegaConf.select(config, "hydra.job.env_set", default={}).values()
    texts = [f"{key}={value}" for key, value in values(raw) if isinstance(value, str)]
    _refuse_saved_secrets([*overrides, *(f"hydra.job.env_copy={value}" for value in copied)], texts)
    for key, value in values(raw) if "hydra" in raw else ():
        _check_text(key, value, is_under(key, trusted_keys))
    probe, reads_variables, references = _probe(raw), "oc.env" in str(raw), command_line_references()
    run_dir = str(OmegaConf.select(probe, "paths.run_dir"))
    # Changes are given on the command line
    groups = [key for key in raw if key in CHECKED_GROUPS or (reads_variables and key != "changes")]
    for key, value in values(probe, names=groups):
        _check_secret(key, value, references)
        if is_under(key, ["hydra"]):
            _check_hydra(key, value, config.hydra)
        elif not is_under(key, trusted_keys):
            _check_destination(key, value, run_dir)


def resolve_hydra(config: DictConfig, key: str) -> str:
    """Resolves a key of the `hydra` node before Hydra runs."""
    return str(OmegaConf.select(_probe(OmegaConf.to_container(config, resolve=False)), key))  # type: ignore[arg-type]


def _check_text(key: str, value: Any, is_trusted: bool) -> None:
    """Checks a value as written, with interpolations unresolved."""
    parts = re.split(r"[.\[]", key)
    if parts[0] == "hydra" and parts[-1] == "_target_" and "${" in str(value):
        raise UserError(f"{key} is no interpolation: write the class's name")
    if key == "hydra.output_subdir" and value not in (".hydra", None):
        raise UserError(f"{key}={value}: a run saves its config in .hydra: leave it out")
    pinned = is_under(key, PINNED) and parts[-1] != "level"
    pinned |= parts[:2] == ["hydra", "launcher"] and bool({*parts} & {*SHELL}) and value not in (None, {}, [])
    if pinned and not is_trusted and (key, repr(value)) not in _known():
        raise UserError(f"{key}={value}: no file says this but those of configs/hydra: give it on the command line")


def _check_hydra(key: str, value: Any, hydra: DictConfig) -> None:
    """Checks a resolved value of the `hydra` node, which Hydra may build or hand to a shell."""
    if isinstance(value, Exception):
        raise UserError(f"{key} cannot be resolved: {value}") from value
    if "${" in str(value):
        raise UserError(f"{key}={value} hides an interpolation: write it without a backslash")
    if not f"{key}{value}".replace("\t", "").isprintable():  # a new line would be one of a batch script
        raise UserError(f"{key}={value!r}: no control characters, which a shell or a batch script would take apart")
    if key == "hydra.job.name" and "/" in value:
        raise UserError(f"{key}={value}: a name, which files are called by, holds no /")
    if not key.endswith("._target_"):
        return
    if value == BASIC_SWEEPER:
        if hydra.job.config_name is None:  # of --hydra-help, which runs nothing
            return
        raise UserError("hydra/sweeper=basic keeps no books, and cannot go on: hydra/sweeper=grid does the same")
    if (extra := EXTRAS.get(package := ".".join(str(value).split(".")[:2]))) and not has_package(package):
        choice = hydra.runtime.choices.get("hydra/launcher")
        raise UserError(f"hydra/launcher={choice}: it is not installed; it comes with pip install -e '.[{extra}]'")
    is_optuna = str(value).startswith("optuna.")  # slow to import: `lab.engine.sweeps.samplers` does, later
    if is_optuna and not has_package("optuna"):
        raise UserError(f"{key}={value}: Optuna is not installed: pip install -e .[optuna]")
    try:
        if value not in BUILT:
            (authorize_name if is_optuna else locate)(value, BUILT)
    except ImportError as error:
        raise UserError(f"{key}={value} cannot be imported: {error}; is the plugin installed?") from error
    except UserError as error:
        raise UserError(f"{key}: {str(error).removeprefix('_target_: ')}") from error


def _check_destination(key: str, value: Any, run_dir: str) -> None:
    """Checks a path or an address to which a config file has something written or sent."""
    if key == "sweep.name" and "/" in str(value):
        raise UserError(f"{key}={value}: a name, which a directory is called by, holds no /")
    inside = value is None or f"{os.path.abspath(str(value))}/".startswith(f"{os.path.abspath(run_dir)}/")
    name, of_logger = re.split(r"[.\[]", key)[-1], is_under(key, ["logger"])
    is_destination = name in DESTINATIONS or (of_logger and name in ("artifact_location", "dir", "root_dir"))
    if (is_destination and not inside) or (of_logger and ".." in str(value).split("/")):
        raise UserError(f"{key}={value}: a file may say ${{paths.run_dir}}/… alone; or give it on the command line")
    address = ADDRESS.search(str(value)) if is_under(key, ["logger"]) else None  # which is sent the service's token
    known = (str(text) for path in CONFIGS.glob("logger/*.yaml") for _, text in values(read_yaml(path)))
    if address and address[0] not in {found for text in known for found in ADDRESS.findall(text)}:
        raise UserError(
            f"{key}={value}: no file says where a logger sends to but those of configs/logger: write it there,"
            " or give it on the command line, also when a run or sweep is resumed"
        )


def _check_secret(key: str, value: Any, references: dict[str, list[str]]) -> None:
    """Refuses a secret at a key for which the command line does not name it."""
    if isinstance(value, Exception) and (user_error := behind(value, UserError)) and "oc.env" in str(user_error):
        raise UserError(f"{key}: {user_error}") from value
    if isinstance(value, Exception) and (references or key.startswith("logger.")):  # it may hold a secret later
        raise UserError(f"{key} cannot be resolved: {value}") from value
    known = secrets() if references else {}
    for name, keys in references.items():
        if not is_under(key, keys) and name in known and known[name] in str(value):
            raise UserError(f"{key}: {name} is a secret, and a file may not pass it on: leave it out, or type it")


def _refuse_saved_secrets(overrides: Sequence[str], texts: Sequence[str]) -> None:
    """Refuses the value of a secret in overrides and copied variables, and in both and in the `texts` of the config
    what is a secret by its key or its form: they are saved unmasked.
    """
    named = {name: value for name, value in secrets().items() if is_secret_name(name)}
    for i, override in enumerate([*overrides, *texts]):
        key, _, value = override.partition("=")
        name = next((name for name, secret in named.items() if i < len(overrides) and secret in override), None)
        plain = re.sub(r"\$\{[^}]*\}", "#", override)  # which no password and no token of an address holds
        is_named = SECRET_KEY.search(key) or (".env_set." in key and is_secret_name(key.rpartition(".")[2]))
        given = is_named and "${" not in value and not is_plain(value)
        if name or given or PASSWORD.search(plain) or TOKEN.search(override) or QUERY.search(plain):
            saved = f"{name}'s value" if name else "a password or token"
            raise UserError(
                f"{key}: this would save {saved} with the run\n"
                f"name its variable in quotes, and its name alone is saved: '{key}=${{oc.env:{name or 'NAME'}}}'"
            )


def _assigned_keys(overrides: Sequence[str]) -> list[str]:
    """Returns the keys to which overrides assign values; a choice of a group assigns none, its file does."""
    assigned = [(override_key(override), override_value(override)) for override in overrides]
    return [key for key, value in assigned if "/" not in key and ("." in key or value.startswith("{"))]


@cache
def _known() -> set[tuple[str, str]]:
    """Returns every key and value of Hydra's own files and of configs/hydra."""
    found = {("paths.run_dir", repr(RUN_DIR)), ("hydra.job.env_set", "{}"), ("hydra.job.env_copy", "[]")}
    for folder in (CONFIGS, Path(str(files("hydra.conf")))):
        for path in folder.glob("hydra/**/*.yaml"):
            prefix = ".".join(path.parent.relative_to(folder).parts)
            prefix = "hydra" if prefix == "hydra.output" else prefix  # which is for the whole node
            found |= {(key, repr(value)) for key, value in values({prefix: read_yaml(path)})}
    return found


def _probe(raw: dict[str, Any]) -> DictConfig:
    """Returns a config whose interpolations resolve before Hydra runs, with stand-ins for a job's values."""
    hydra = raw.get("hydra", {"runtime": {"output_dir": "0"}})
    job = {**hydra.get("job", {}), "override_dirname": "0"}
    # Overrides are the user's own; the help texts have several lines
    hydra = {**hydra, "job": job, "overrides": {"hydra": [], "task": []}, "help": None, "hydra_help": None}

    def resolvable(text: str) -> str:
        return "0" if text == "???" else text.replace("${hydra:", "${hydra.")

    return OmegaConf.create(map_strings({**raw, "hydra": hydra}, resolvable))
