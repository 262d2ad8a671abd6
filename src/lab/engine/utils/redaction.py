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

# NAME_TOKEN, TOKENS_2, PGPASSWORD, MY_PASS, OPENAI_KEY, AWS_ACCESS_KEY_ID; but not TOKENIZERS_PARALLELISM or COMPASS
SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASSCODE|(?<!COM)(?<!BY)PASS|PWD|CREDENTIAL|CREDS?|AUTH|JWT|BEARER|WEBHOOK"
    r"|COOKIE|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CONNECTION_?STRING|_PW|_PAT|_KEY|_DSN|_SAS|_SALT|_OTP)S?(?=_|\d|$)",
    re.IGNORECASE,
)
# Keys of a config, and names in code, that hold a secret; fewer, for pad_token and sort_key hold none
_NAMES = (
    r"(?:(?<![^\W_])(?:password|passwd|passphrase|pass|pwd|secret|credentials?|jwt|bearer|webhook|(?:api|access|private)_?key"
    r"|secret_?key|(?:api|access|auth|bearer|refresh|secret|hub|hf)_?token)|(?<![\w-])token)"
)
SECRET_KEY = re.compile(rf"{_NAMES}$", re.IGNORECASE)
# A quoted text, or one to the end of its line, that a new line of a patch gives to such a name
ASSIGNED = re.compile(
    rf"^(\+.*{_NAMES}[\"']?\s*[:=]\s*)(?:([\"'])(?![{{$%])[^\"'\s]{{6,}}\2|(?![{{$%])[^\s\"'()\[\]{{}},]{{6,}}$)",
    re.IGNORECASE | re.MULTILINE,
)
# What services give out, whatever its name: GitHub, GitLab, OpenAI, Hugging Face, Slack, AWS, Google, npm, PyPI, JWT
TOKEN = re.compile(
    r"(?<!\w)(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|sk-[\w-]*[A-Za-z0-9]{20,}|hf_[A-Za-z0-9]{20,}"
    r"|xox[abeprs]-[\w-]{10,}|(AKIA|ASIA)[A-Z0-9]{16}(?!\w)|AIza[\w-]{35}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"
    r"|(?<=hooks\.slack\.com/services/)[\w/]+|(?<=discord\.com/api/webhooks/)[\w/-]+"
    r"|(?<=\bBearer )[\w.~+/-]{16,}=*|(?<=PRIVATE KEY-----)[^-]{16,}"
)
QUERY = re.compile(  # the value in ?token=… of an address
    r"([?&][\w.-]*?(?:token|key|keyid|secret|password|passwd|pass|pwd|auth|sig|signature|credentials?|jwt|bearer)=)"
    r"(?![%{$*<])[^\s&#'\"<>,\])}\\]+",
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
    if HARMLESS_NAME.fullmatch(key) and not is_secret_name(key):
        return value
    if not (is_plain(value) or key in command_line_references() or key in project_settings().get("environment", [])):
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
    named = {name: value for name, value in os.environ.items() if is_secret_name(name)}
    return {name: value for name, value in (_interpolated | named).items() if not is_plain(value)}


def is_secret_name(name: str) -> bool:
    """Tells whether a variable of the environment is called as secrets are."""
    return SECRET_NAME.search(name) is not None and name not in ("PWD", "OLDPWD")


def mask_forms(text: str) -> str:
    """Masks what is a secret by its form: accounts and tokens in addresses, tokens of well-known services, keys."""
    text = QUERY.sub(rf"\1{MASK}", ACCOUNT.sub(f"://{MASK}@", text))
    return TOKEN.sub(lambda found: re.sub(r"[^\n+]+", MASK, found[0]) if "\n" in found[0] else MASK, text)


def redact(value: Any) -> Any:
    """Masks the environment's secrets, and what is one by its form; see `mask_forms`.

    In strings and paths, and in those of dictionaries (keys too), lists, tuples and sets at any depth.
    """
    forms = _forms()

    def masked(value: Any) -> Any:
        if isinstance(value, str):
            for form in forms:
                value = value.replace(form, MASK)
            return mask_forms(value)
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


def is_plain(value: str) -> bool:
    """Tells whether `value` is no secret: too short, a short number, a path that exists."""
    value = value.strip()
    if len(value) < SHORTEST or re.fullmatch(r"(?=.{1,11}$)[-+]?[\d.,:]+(e[-+]?\d+)?", value, re.IGNORECASE):
        return True
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a path, an unknown home, a null byte
        return False
