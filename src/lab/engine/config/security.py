"""Holds a composed config against what files may say: docs/security.md has the reasons.

Files may come from elsewhere. What the command line gives is the user's own, and so is what stands in configs/hydra.
`compose` calls `authorize`: for the command before `hydra.main` runs, and for every job of a sweep.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.engine.compat.hydra import BASIC_LAUNCHER, BASIC_SWEEPER
from lab.engine.config.composition_errors import behind
from lab.engine.config.drawn import RUN_DIR
from lab.engine.config.instantiate import authorize_name, locate
from lab.engine.config.overrides import override_key, override_value
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import read_yaml
from lab.engine.utils.machine import has_package
from lab.engine.utils.paths import CONFIGS
from lab.engine.utils.project import project_settings
from lab.engine.utils.redaction import SECRET_NAME, secrets, user_references

# What Hydra may build: callbacks, launchers, sweepers. A plugin always stands in the package hydra_plugins
BUILT = [
    *("lab.engine.sweeps.workers.Workers", "hydra.experimental.callbacks.LogJobReturnCallback", BASIC_LAUNCHER),
    *("hydra_plugins", "optuna.samplers", "optuna.pruners", *project_settings().get("allow", [])),
]
EXTRAS = {  # of pyproject.toml, which bring the launchers that configs/hydra/launcher presets
    "hydra_plugins.hydra_joblib_launcher": "joblib",
    "hydra_plugins.hydra_submitit_launcher": "submitit",
    "hydra_plugins.hydra_ray_launcher": "ray",
}
# Where a run lives, which handlers log, what stands in its environment: as Hydra or configs/hydra has it, or typed
PINNED = [f"hydra.{key}" for key in ("run", "sweep", "job_logging", "hydra_logging", "job.env_set", "job.env_copy")]
PINNED += ["paths.run_dir"]
# Arguments of launchers that end in a shell, load code or pickles, or say whom to hand a job to: typed alone
SHELL = ["additional_parameters", "address", "initialization_commands", "python", "runtime_env", "setup"]
SHELL += ["setup_commands", "srun_args", "submitit_folder", "temp_folder"]
JUDGED = ["hydra", "callbacks", "logger", "paths", "sweep", "trainer"]  # whose values are looked at one by one
DESTINATIONS = ("dirpath", "save_dir", "default_root_dir")  # where Lightning's classes write

PASSWORD = re.compile(r"://[^\s/?#'\"@]*:[^\s/?#'\"@]+@")  # scheme://user:password@
ADDRESS = re.compile(r"(?!file:)[a-z][\w+.-]*://\S+", re.IGNORECASE)


def authorize(config: DictConfig, overrides: Sequence[str] = (), typed: Sequence[str] | None = None) -> None:
    """Refuses a config that would run code, write over anything, or save or send a secret.

    Args:
        config: as composed, or as a run has saved it, without its `hydra` node.
        overrides: that made it.
        typed: those of them that the command line gave; all by default.

    Raises:
        UserError: with the key, and what takes what is meant well.
    """
    raw: Any = OmegaConf.to_container(config, resolve=False)
    is_typed = _typing(overrides if typed is None else typed)
    copied = [
        f"hydra.job.env_copy={value}" for value in OmegaConf.select(config, "hydra.job.env_set", default={}).values()
    ]
    _refuse_saved_secrets([*overrides, *copied])
    for key, value in _leaves(raw) if "hydra" in raw else ():
        _check_text(key, value, is_typed(key))
    probe, reads, references = _probe(raw), "oc.env" in str(raw), user_references()
    run_dir = str(OmegaConf.select(probe, "paths.run_dir"))
    for group in (key for key in raw if (reads and key != "changes") or key in JUDGED):  # changes are typed
        for key, value in _resolved(probe, group, group):
            _check_secret(key, value, references)
            if group == "hydra":
                _check_hydra(key, value, config.hydra)
            elif not is_typed(key):
                _check_destination(key, value, run_dir)


def _check_text(key: str, value: Any, is_typed: bool) -> None:
    """Judges a value as it is written, interpolations unresolved."""
    parts = re.split(r"[.\[]", key)
    if parts[0] == "hydra" and parts[-1] == "_target_" and "${" in str(value):
        raise UserError(f"{key} is no interpolation: write the class's name")
    if key == "hydra.output_subdir" and value not in (".hydra", None):
        raise UserError(f"{key}={value}: a run saves its config in .hydra, and cannot be resumed without: leave it out")
    pinned = _is_under(key, PINNED) and parts[-1] != "level"
    pinned |= parts[:2] == ["hydra", "launcher"] and bool({*parts} & {*SHELL}) and value not in (None, {}, [])
    if pinned and not is_typed and (key, repr(value)) not in _known():
        raise UserError(f"{key}={value}: no file says this but those of configs/hydra: give it on the command line")


def _check_hydra(key: str, value: Any, hydra: DictConfig) -> None:
    """Judges a resolved value of what Hydra builds, or hands to a shell."""
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
    later = str(value).startswith("optuna.")  # made by `lab.engine.sweeps.samplers`: nobody waits for it until then
    if later and find_spec("optuna") is None:
        raise UserError(f"{key}={value}: Optuna is not installed: pip install -e .[optuna]")
    try:
        if value not in BUILT:
            (authorize_name if later else locate)(value, BUILT)
    except ImportError as error:
        raise UserError(f"{key}={value} cannot be imported: {error}; is the plugin installed?") from error
    except UserError as error:
        raise UserError(f"{key}: {str(error).removeprefix('_target_: ')}") from error


def _check_destination(key: str, value: Any, run_dir: str) -> None:
    """Judges where a file has something written or sent."""
    if key == "sweep.name" and "/" in str(value):
        raise UserError(f"{key}={value}: a name, which a directory is called by, holds no /")
    inside = value is None or f"{os.path.abspath(str(value))}/".startswith(f"{os.path.abspath(run_dir)}/")
    if re.split(r"[.\[]", key)[-1] in DESTINATIONS and not inside:
        raise UserError(f"{key}={value}: a file may say ${{paths.run_dir}}/… alone; or give it on the command line")
    address = ADDRESS.search(str(value)) if _is_under(key, ["logger"]) else None  # which is sent the service's token
    if address and not any(address[0] in path.read_text() for path in CONFIGS.glob("logger/*.yaml")):
        raise UserError(f"{key}={value}: no file says where a logger sends to but those of configs/logger")


def _check_secret(key: str, value: Any, references: dict[str, list[str]]) -> None:
    """Refuses a secret that nobody typed, and one that was typed for another key."""
    if isinstance(value, Exception) and (told := behind(value, UserError)) and "oc.env" in str(told):
        raise UserError(f"{key}: {told}") from value
    if isinstance(value, Exception) and (references or key.startswith("logger.")):  # nobody knows what it will hold
        raise UserError(f"{key} cannot be resolved: {value}") from value
    for name, keys in references.items():
        if not _is_under(key, keys) and name in (found := secrets()) and found[name] in str(value):
            raise UserError(f"{key}: {name} is a secret, and a file may not pass it on: leave it out, or type it")


def _refuse_saved_secrets(overrides: Sequence[str]) -> None:
    """Hydra saves overrides and copied variables as they are."""
    named = {name: value for name, value in secrets().items() if SECRET_NAME.search(name)}
    for override in overrides:
        key = override.partition("=")[0]
        name = next((name for name, value in named.items() if value in override), None)
        if name or PASSWORD.search(re.sub(r"\$\{[^}]*\}", "", override)):
            what, name = (f"{name}'s value", name) if name else ("a password", "NAME")
            raise UserError(
                f"{key}: this would save {what} with the run\n"
                f"name the variable that holds it, in quotes, and its name alone is saved: '{key}=${{oc.env:{name}}}'"
            )


def _typing(overrides: Sequence[str]) -> Callable[[str], bool]:
    """Returns what tells whether a key was given its value on the command line, and not by a file chosen there."""
    given = [(override_key(one), override_value(one)) for one in overrides]
    keys = [key for key, value in given if "/" not in key and ("." in key or value.startswith("{"))]
    return lambda key: _is_under(key, keys)


def _is_under(key: str, keys: Sequence[str]) -> bool:
    return any(f"{key}.".replace("[", ".").startswith(f"{above}.") for above in keys)


@cache
def _known() -> set[tuple[str, str]]:
    """Every value that Hydra's own files and configs/hydra give to a key."""
    found = {("paths.run_dir", repr(RUN_DIR)), ("hydra.job.env_set", "{}"), ("hydra.job.env_copy", "[]")}
    for folder in (CONFIGS, Path(str(files("hydra.conf")))):
        for path in folder.glob("hydra/**/*.yaml"):
            prefix = ".".join(path.parent.relative_to(folder).parts)
            prefix = "hydra" if prefix == "hydra.output" else prefix  # which is for the whole node
            found |= {(key, repr(value)) for key, value in _leaves(read_yaml(path), prefix)}
    return found


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of plain dictionaries and lists, empty ones too, with its full key."""
    if not (isinstance(node, dict | list) and node):
        yield prefix, node
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        name = f"{prefix}[{key}]" if isinstance(node, list) else f"{prefix}.{key}" if prefix else str(key)
        yield from _leaves(value, name)


def _probe(raw: dict[str, Any]) -> DictConfig:
    """Returns a config to look into before Hydra runs: what only a job knows is there, by some value."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(one) for key, one in value.items()}
        if isinstance(value, list):
            return list(map(changed, value))
        if isinstance(value, str):
            return "0" if value == "???" else value.replace("${hydra:", "${hydra.")
        return value

    made = changed(raw)
    hydra = made.setdefault("hydra", {"runtime": {"output_dir": "0"}})
    # What was typed, and texts of several lines
    hydra |= {"overrides": {"hydra": [], "task": []}, "help": None, "hydra_help": None}
    hydra.setdefault("job", {})["override_dirname"] = "0"
    probe = OmegaConf.create(made)
    assert isinstance(probe, DictConfig)
    return probe


def _resolved(parent: Any, key: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every value below a node, interpolations followed, with its full key; the error of one that cannot be."""
    try:
        value = parent[key]
    except OmegaConfBaseException as error:
        value = error
    if OmegaConf.is_dict(value):
        for inner in value:
            yield from _resolved(value, inner, f"{name}.{inner}")
    elif OmegaConf.is_list(value):
        for i in range(len(value)):
            yield from _resolved(value, i, f"{name}[{i}]")
    else:
        yield name, value
