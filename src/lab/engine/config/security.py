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
from typing import Any

import yaml
from hydra.conf import RunDir, SweepDir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.engine.compat.hydra import BASIC_LAUNCHER, BASIC_SWEEPER
from lab.engine.config.composition_errors import user_error_behind
from lab.engine.config.drawn import RUN_DIR
from lab.engine.config.instantiate import authorize_name, locate
from lab.engine.config.overrides import override_key, override_value
from lab.engine.utils.errors import UserError
from lab.engine.utils.machine import has_package
from lab.engine.utils.paths import CONFIGS
from lab.engine.utils.project import project_settings
from lab.engine.utils.redaction import SECRET_NAME, secrets, typed_references

# What Hydra may build: callbacks, launchers, sweepers. A plugin always stands in the package hydra_plugins
ADD_TO_BUILT = "allow in [tool.lab] of pyproject.toml"
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
    _refuse_saved_secrets(config, overrides)
    raw: Any = OmegaConf.to_container(config, resolve=False)
    is_typed = _typing(overrides if typed is None else typed)
    for key, value in _leaves(raw) if "hydra" in raw else ():
        _check_text(key, value, is_typed)
    probe = _probe(raw)
    reads = "oc.env" in str(raw)
    groups = [str(group) for group in raw if (reads and group != "changes") or group in JUDGED]  # changes are typed
    run_dir = os.path.abspath(str(OmegaConf.select(probe, "paths.run_dir", throw_on_resolution_failure=False)))
    for group in groups:
        for key, value in _resolved(probe, group, group):
            _check_secret(key, value)
            if key.startswith("hydra."):
                _check_hydra(key, value, config)
            elif not is_typed(key):
                _check_destination(key, value, run_dir)


def _check_text(key: str, value: Any, is_typed: Callable[[str], bool]) -> None:
    """Judges a value as it is written, interpolations unresolved."""
    if key.startswith("hydra.") and key.endswith("_target_") and "${" in str(value):
        raise UserError(f"{key} is no interpolation: write the class's name")
    if key == "hydra.output_subdir" and value not in (".hydra", None):
        raise UserError(f"{key}={value}: a run saves its config in .hydra, and cannot be resumed without: leave it out")
    pinned = _is_under(key, PINNED) and not key.endswith(".level")
    shell = _is_under(key, ["hydra.launcher"]) and {*re.split(r"[.\[]", key)} & {*SHELL} and value not in (None, {}, [])
    if (pinned or shell) and not is_typed(key) and (key, repr(value)) not in _known():
        raise UserError(f"{key}={value}: no file says this but those of configs/hydra: give it on the command line")


def _check_hydra(key: str, value: Any, config: DictConfig) -> None:
    """Judges a resolved value of what Hydra builds, or hands to a shell."""
    if isinstance(value, Exception):
        raise UserError(f"{key} cannot be resolved: {value}") from value
    if "${" in str(value):
        raise UserError(f"{key}={value} hides an interpolation: write it without a backslash")
    if not (key + str(value)).replace("\t", "").isprintable():  # a new line would be one of a batch script
        raise UserError(f"{key}={value!r}: no control characters, which a shell or a batch script would take apart")
    if key == "hydra.job.name" and "/" in str(value):
        raise UserError(f"{key}={value}: a name, which files are called by, holds no /")
    if key.endswith("._target_"):
        group = key.split(".")[1]
        choice = config.hydra.runtime.choices.get(f"hydra/{group}")
        if value == BASIC_SWEEPER:
            if config.hydra.job.config_name is None:  # of --hydra-help, which runs nothing
                return
            raise UserError("hydra/sweeper=basic keeps no books, and cannot go on: hydra/sweeper=grid does the same")
        package = ".".join(str(value).split(".")[:2])
        if package in EXTRAS and not has_package(package):
            raise UserError(
                f"hydra/{group}={choice}: this launcher is not installed; it comes with"
                f" pip install -e '.[{EXTRAS[package]}]'"
            )
        _locate(key, value)


def _locate(key: str, target: Any) -> None:
    """Refuses what `BUILT` does not have, and what is not there."""
    later = str(target).startswith("optuna.")  # made by `lab.engine.sweeps.samplers`: nobody waits for it until then
    if later and find_spec("optuna") is None:
        raise UserError(f"{key}={target}: Optuna is not installed: pip install -e .[optuna]")
    try:
        if target not in BUILT:
            (authorize_name if later else locate)(target, BUILT, ADD_TO_BUILT)
    except ImportError as error:
        raise UserError(f"{key}={target} cannot be imported: {error}; is the plugin installed?") from error
    except UserError as error:
        raise UserError(f"{key}: {str(error).removeprefix('_target_: ')}") from error


def _check_destination(key: str, value: Any, run_dir: str) -> None:
    """Judges where a file has something written or sent."""
    if key == "sweep.name" and "/" in str(value):
        raise UserError(f"{key}={value}: a name, which a directory is called by, holds no /")
    if re.split(r"[.\[]", key)[-1] in DESTINATIONS and value is not None:
        if not f"{os.path.abspath(str(value))}/".startswith(f"{run_dir}/"):
            raise UserError(f"{key}={value}: a file may say ${{paths.run_dir}}/… alone; or give it on the command line")
    if _is_under(key, ["logger"]) and (address := ADDRESS.search(str(value))):
        # Loggers send their service's token to it
        if not any(address[0] in path.read_text() for path in (CONFIGS / "logger").glob("*.yaml")):
            raise UserError(f"{key}={value}: no file says where a logger sends to but configs/logger/*.yaml")


def _check_secret(key: str, value: Any) -> None:
    """Refuses a secret that nobody typed, and one that was typed for another key."""
    if isinstance(value, Exception) and (told := user_error_behind(value)) and "oc.env" in str(told):
        raise UserError(f"{key}: {told}") from value
    for name, keys in typed_references().items():
        if not _is_under(key, keys) and name in (found := secrets()) and found[name] in str(value):
            raise UserError(f"{key}: {name} is a secret, and a file may not pass it on: leave it out, or type it")


def _refuse_saved_secrets(config: DictConfig, overrides: Sequence[str]) -> None:
    """Hydra saves overrides and copied variables as they are."""
    named = {name: value for name, value in secrets().items() if SECRET_NAME.search(name)}
    for override in overrides:
        key = override.partition("=")[0]
        if PASSWORD.search(re.sub(r"\$\{[^}]*\}", "", override)):
            raise UserError(
                f"{key}: this would save a password with the run\n"
                "put it into a variable, of which only the name is saved: '…://user:${oc.env:NAME}@host'"
            )
        for name, value in named.items():
            if value in override:
                raise UserError(
                    f"{key}: this would save {name}'s value with the run\n"
                    f"quote it, so that only its name is saved: '{key}=${{oc.env:{name}}}'"
                )
    for name in OmegaConf.select(config, "hydra.job.env_copy") or []:
        if name in named:
            raise UserError(
                f"hydra.job.env_copy: this would save {name}'s value with the run; set it where the job runs"
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
    nodes = [{"run": {"dir": RunDir.dir}, "sweep": {"dir": SweepDir.dir, "subdir": SweepDir.subdir}}]
    nodes += [{"job": {"env_set": {}, "env_copy": []}}]
    for group in ("job_logging", "hydra_logging"):
        own = [path for path in (files("hydra.conf") / "hydra" / group).iterdir() if path.name.endswith(".yaml")]
        nodes += [{group: yaml.safe_load(path.read_text())} for path in own]
    found = {(f"hydra.{key}", repr(value)) for node in nodes for key, value in _leaves(node)}
    for path in CONFIGS.glob("hydra/**/*.yaml"):
        prefix = ".".join(path.relative_to(CONFIGS).parent.parts)
        found |= {(key, repr(value)) for key, value in _leaves(yaml.safe_load(path.read_text()), prefix)}
    return found | {("paths.run_dir", repr(RUN_DIR))}


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
    for shown in ("overrides", "help", "hydra_help"):  # what was typed, and texts of several lines
        hydra.pop(shown, None)
    hydra.get("job", {}).pop("override_dirname", None)
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
