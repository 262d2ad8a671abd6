"""Holds what Hydra itself builds from a config against lists, before it does.

Callbacks, launchers, sweepers and log handlers stand in the config's `hydra` node, which any file of a defaults list
can change. `compose` calls `authorize`; `cli.command` composes what will run before `hydra.main` does, and sweepers
compose their jobs.
"""

import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from lab.engine.compat.hydra import BASIC_LAUNCHER, BASIC_SWEEPER
from lab.engine.config.instantiate import authorize_name, locate
from lab.engine.utils.errors import UserError
from lab.engine.utils.machine import has_package
from lab.engine.utils.redaction import SECRET_NAME, secrets

HERE = "src/lab/engine/config/security.py"

# What may stand there. Add your own class, or the package of a plugin.
CALLBACKS = [
    "lab.engine.sweeps.workers.Workers",
    "hydra.experimental.callbacks.LogJobReturnCallback",
    "hydra_plugins",
]
PLUGINS = [  # launchers and sweepers; Hydra takes none but those that stand in the package hydra_plugins or in its own
    BASIC_LAUNCHER,
    BASIC_SWEEPER,
    "hydra_plugins",
    "optuna.samplers",
    "optuna.pruners",
]
EXTRAS = {  # of pyproject.toml, which bring the launchers that configs/hydra/launcher presets
    "hydra_plugins.hydra_joblib_launcher": "joblib",
    "hydra_plugins.hydra_submitit_launcher": "submitit",
    "hydra_plugins.hydra_ray_launcher": "ray",
}
LOGGING = [
    "lab.engine.utils.console.Console",
    "lab.engine.utils.console.Redact",
    "logging.FileHandler",
    "logging.NullHandler",
    "logging.StreamHandler",
    "colorlog.ColoredFormatter",
    "rich.logging.RichHandler",
]
# Variables that a config may set: none of them names a program, a library or an option of either
ENVIRONMENT = [
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "GLOO_SOCKET_IFNAME",
    "MKL_NUM_THREADS",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "OMP_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    "WANDB_MODE",
]
# Arguments of launchers that end in a shell or load code, or say whom to hand it to: only the command line gives them
SHELL = [
    "additional_parameters",
    "address",
    "initialization_commands",
    "python",
    "runtime_env",
    "setup",
    "setup_commands",
]
SHELL += ["srun_args"]

PASSWORD = re.compile(r"://[^\s/?#'\"@]*:[^\s/?#'\"@]+@")  # scheme://user:password@


def authorize(config: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Refuses a composed config whose `hydra` node would run code or save a secret.

    Args:
        config: as Hydra composed it, its `hydra` node included.
        overrides: of the command line.

    Raises:
        UserError: with the key, and the list above that takes what is meant well.
    """
    _refuse_saved_secrets(config, overrides)
    hydra = config.hydra
    for group, allowed in (("callbacks", CALLBACKS), ("launcher", PLUGINS), ("sweeper", PLUGINS)):
        for key, value in _walk(hydra, group, f"hydra.{group}"):
            if key.endswith("._target_"):
                _check_installed(value, hydra.runtime.choices.get(f"hydra/{group}"))
                name = "CALLBACKS" if group == "callbacks" else "PLUGINS"
                _locate(key, value, allowed, f"{name} in {HERE}")
            elif group == "launcher" and value and (argument := _shell(key)) and not _is_typed(argument, overrides):
                raise UserError(f"{key} runs commands: give it on the command line, no file may")
    for group in ("job_logging", "hydra_logging"):
        if OmegaConf.is_interpolation(hydra, group):
            raise UserError(f"hydra.{group} is no interpolation: write it out")
        if hydra[group] is not None:
            _authorize_logging(OmegaConf.to_container(hydra[group], resolve=False), f"hydra.{group}")
    for variable in list(hydra.job.env_set):
        if variable not in ENVIRONMENT and variable not in hydra.job.env_copy:
            raise UserError(
                f"hydra.job.env_set.{variable}: a config may set {', '.join(ENVIRONMENT)}\n"
                f"ENVIRONMENT in {HERE} takes more; or set it yourself: {variable}=… python src/train.py …"
            )


def _refuse_saved_secrets(config: DictConfig, overrides: Sequence[str]) -> None:
    """Hydra saves overrides and copied variables as they are."""
    for override in overrides:
        if PASSWORD.search(re.sub(r"\$\{[^}]*\}", "", override)):
            raise UserError(
                f"{override.partition('=')[0]}: this would save a password with the run\n"
                "put it into a variable, of which only the name is saved: '…://user:${oc.env:NAME}@host'"
            )
    for name, value in secrets().items():
        if not SECRET_NAME.search(name):
            continue
        for override in overrides:
            if value in override:
                key = override.partition("=")[0]
                raise UserError(
                    f"{key}: this would save {name}'s value with the run\n"
                    f"quote it, so that only its name is saved: '{key}=${{oc.env:{name}}}'"
                )
        if name in config.hydra.job.env_copy:
            raise UserError(
                f"hydra.job.env_copy: this would save {name}'s value with the run; set it where the job runs"
            )


def _walk(parent: Any, key: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every value below a node, interpolations followed, with its full key.

    Raises:
        UserError: for a `_target_` that is an interpolation, and for one that cannot be followed yet.
    """
    if OmegaConf.is_missing(parent, key):
        return
    if key == "_target_" and OmegaConf.is_interpolation(parent, key):
        raise UserError(f"{name} is no interpolation: write the class's name")
    try:
        value = parent[key]
    except InterpolationToMissingValueError:  # such as ${hydra.job.num}, a number that Hydra gives later
        return
    except OmegaConfBaseException as error:
        raise UserError(f"{name} cannot be resolved: {error}") from error
    if OmegaConf.is_dict(value):
        for inner in value:
            yield from _walk(value, inner, f"{name}.{inner}")
    elif OmegaConf.is_list(value):
        for i in range(len(value)):
            yield from _walk(value, i, f"{name}[{i}]")
    elif isinstance(value, str) and "${" in value:
        raise UserError(f"{name}={value} hides an interpolation: write it without a backslash")
    else:
        yield name, value


def _check_installed(target: Any, choice: str | None) -> None:
    """Refuses a launcher that a preset names and nobody has installed."""
    package = ".".join(str(target).split(".")[:2])
    if package in EXTRAS and not has_package(package):
        raise UserError(
            f"hydra/launcher={choice}: this launcher is not installed; it comes with"
            f" pip install -e '.[{EXTRAS[package]}]'"
        )


def _locate(key: str, target: Any, allowed: list[str], remedy: str) -> None:
    if target in allowed:
        return
    if str(target).startswith(
        "optuna."
    ):  # made later, by `lab.engine.sweeps.samplers`: until then nobody waits for Optuna
        if find_spec("optuna") is None:
            raise UserError(f"{key}={target}: Optuna is not installed: pip install -e .[optuna]")
        authorize_name(target, allowed, remedy)
        return
    try:
        locate(target, allowed, remedy)
    except ImportError as error:
        raise UserError(f"{key}={target} cannot be imported: {error}; is the plugin installed?") from error
    except UserError as error:
        raise UserError(f"{key}: {str(error).removeprefix('_target_: ')}") from error


def _shell(key: str) -> str | None:
    return next((part for part in key.replace("[", ".").split(".")[2:] if part in SHELL), None)


def _is_typed(argument: str, overrides: Sequence[str]) -> bool:
    keys = [override.partition("=")[0].lstrip("+") for override in overrides]
    return any(key.startswith("hydra.launcher.") and argument in key.split(".") for key in keys)


def _authorize_logging(node: Any, name: str) -> None:
    """Holds what `logging.config` takes (classes, factories, files) against the lists; interpolations only in files."""
    if isinstance(node, list):
        for i, value in enumerate(node):
            _authorize_logging(value, f"{name}[{i}]")
    elif isinstance(node, dict):
        for key, value in node.items():
            inner = f"{name}.{key}"
            if key == ".":
                raise UserError(f"{inner}: a config may not set attributes of a log handler")
            if key in ("()", "class"):
                if value not in LOGGING:
                    raise UserError(
                        f"{inner}: {value} is not allowed\na config may name {', '.join(LOGGING)};"
                        f" LOGGING in {HERE} takes more"
                    )
            elif key == "filename":
                if not (isinstance(value, str) and value.endswith(".log")):
                    raise UserError(
                        f"{inner}={value}: a log's name ends with .log, so that it is no file of another kind"
                    )
            else:
                _authorize_logging(value, inner)
    elif isinstance(node, str):
        leads_out = node.startswith(("ext://", "cfg://")) and node not in ("ext://sys.stdout", "ext://sys.stderr")
        if leads_out or "${" in node:
            raise UserError(f"{name}={node} is not allowed in a log's settings: write it out")
