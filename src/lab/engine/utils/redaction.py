"""Masks the environment's secrets in files and on the screen."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omegaconf import OmegaConf

from lab.engine.utils.errors import UserError
from lab.engine.utils.project import project_settings

MASK = "***"
SHORTEST = 6  # characters: anything shorter would mask ordinary words

# NAME_TOKEN, TOKENS_2, PGPASSWORD, OPENAI_KEY, AWS_ACCESS_KEY_ID; but not TOKENIZERS_PARALLELISM
SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|AUTH|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|_PAT|_KEY|_DSN)S?(?=_|\d|$)",
    re.IGNORECASE,
)
# What any config may read, and show: user, place, and the job's name
HARMLESS_NAME = re.compile(
    r"(HOME|USER|USERNAME|LOGNAME|PWD|OLDPWD|PATH|SHELL|TERM|LANG|LC_\w+|TZ|TMPDIR|TEMP|TMP|HOST|HOSTNAME|DISPLAY|EDITOR"
    r"|MNIST_MIRROR|XDG_\w+|CONDA_\w+|VIRTUAL_ENV|CUDA_\w+|OMP_\w+|SLURM_\w+|(LOCAL_|NODE_|GROUP_)?RANK|WORLD_SIZE"
    r"|MASTER_ADDR|MASTER_PORT)"
)
ACCOUNT = re.compile(r"://[^\s/?#'\"<>]+@")  # scheme://user:password@; without the scheme, a long word takes no time

_interpolated: dict[str, str] = {}  # variables that a config has read, and their values
COMMAND_LINE = "LAB_COMMAND_LINE"  # hands the arguments of the command line to the jobs and ranks that it starts


def command_line(more: Sequence[str] = ()) -> list[str]:
    """Returns the command line that started this process, perhaps through other processes, and `more`."""
    return list(dict.fromkeys([*json.loads(os.environ.get(COMMAND_LINE, "[]")), *more]))


def command_line_references() -> dict[str, list[str]]:
    """Returns the environment variables that the command line interpolates, each with the keys that do so."""
    references: dict[str, list[str]] = {}
    for argument in command_line():
        for name in re.findall(r"\$\{oc\.env:\s*(\w+)", argument):
            references.setdefault(name, []).append(argument.lstrip("+").partition("=")[0])
    return references


def _env(key: str, *default: Any) -> str | None:
    """Resolves `oc.env` as OmegaConf does, records the value as a secret, and keeps secrets from files.

    A file could send what it reads anywhere. So it reads a variable that may hold a secret only where the command line
    names it, or `environment` of [tool.lab] in pyproject.toml.
    """
    if key not in os.environ:
        if not default:
            raise KeyError(f"Environment variable '{key}' not found")
        return None if default[0] is None else str(default[0])
    value = os.environ[key]
    if HARMLESS_NAME.fullmatch(key):
        return value
    if not (_is_plain(value) or key in command_line_references() or key in project_settings().get("environment", [])):
        raise UserError(
            f"${{oc.env:{key}}} may be a secret, and a file may not read it: give it on the command line, in quotes,"
            f" or add {key} to environment in [tool.lab] of pyproject.toml"
        )
    return _interpolated.setdefault(key, value)


OmegaConf.register_new_resolver("oc.env", _env, replace=True)


def secrets() -> dict[str, str]:
    """Returns the variables that hold a secret, by their name or because a config reads them, with their values.

    Numbers, switches and paths that exist are no secrets, whatever their name.
    """
    named = {name: value for name, value in os.environ.items() if SECRET_NAME.search(name)}
    return {name: value for name, value in (_interpolated | named).items() if not _is_plain(value)}


def redact(value: Any) -> Any:
    """Masks the environment's secrets, and accounts in addresses (`https://user:password@host`).

    In strings and paths, and in those of dictionaries (keys too), lists, tuples and sets at any depth.
    """
    forms = _forms()

    def masked(value: Any) -> Any:
        if isinstance(value, str):
            for form in forms:
                value = value.replace(form, MASK)
            return ACCOUNT.sub(f"://{MASK}@", value)
        if isinstance(value, Path):
            return Path(masked(str(value)))
        if isinstance(value, dict):
            return {masked(key): masked(item) for key, item in value.items()}
        return type(value)(map(masked, value)) if type(value) in (list, tuple, set) else value

    return masked(value)


def _forms() -> list[str]:
    """Returns the forms of each secret in a text: plain, in an address, in JSON, in Python; longest first."""
    forms = set()
    for secret in map(str.strip, secrets().values()):
        forms |= {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
        # a key in several lines may be shown line by line
        forms |= {line for line in secret.splitlines() if len(line) >= 16 and not line.startswith("-----")}
    return sorted(forms, key=len, reverse=True)


def _is_plain(value: str) -> bool:
    """Tells whether `value` is no secret: too short, a short number, a path that exists."""
    value = value.strip()
    if len(value) < SHORTEST or re.fullmatch(r"(?=.{1,11}$)[-+]?[\d.,:]+(e[-+]?\d+)?", value, re.IGNORECASE):
        return True
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a path, an unknown home, a null byte
        return False
