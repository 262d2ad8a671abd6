"""Reads overrides before Hydra does."""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from omegaconf import ListConfig, OmegaConf


def raw_overrides(overrides: Iterable[str]) -> list[str]:
    """Returns the overrides that a config holds, as the user gave them: `${oc.env:NAME}` is not resolved."""
    if isinstance(overrides, ListConfig):
        overrides = OmegaConf.to_container(overrides, resolve=False)  # type: ignore[assignment]
    return [str(override) for override in overrides]


def override_value(override: str) -> str:
    """Returns the value of an override, without quotes."""
    value = override.partition("=")[2]
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace(f"\\{value[0]}", value[0])
    return value


def override_key(override: str) -> str:
    """Returns the key of an override, without `+` and `~`."""
    return override.lstrip("+~").partition("=")[0]


def is_hydras(override: str) -> bool:
    """Tells whether an override is a flag, or of Hydra's own config, and not of a run's."""
    return override.startswith("-") or re.match(r"hydra\b", override_key(override)) is not None


def last_value(overrides: Sequence[str], key: str) -> str | None:
    """Returns the value that the last override gives to `key`; None where it is empty, null or not given."""
    values = [override_value(override) for override in overrides if override_key(override) == key]
    return values[-1] if values and values[-1] not in ("", "null") else None


def command_word(key: str, value: str) -> str:
    """Writes an override, whose value is a text, as one word of a shell's command line, in quotes if it needs any."""
    is_literal = re.fullmatch(r"(?i)true|false|null|[+-]?(nan|inf|[\d_.]+(e[+-]?\d+)?)|", value) is not None
    if not is_literal and re.fullmatch(r"[A-Za-z0-9_./:@%+-]+", value):
        return f"{key}={value}"
    text = to_override(value) if re.search(r"[\\\"]", value) else f'"{value}"'
    return shlex.quote(f"{key}={text}")


def to_override(value: Any) -> str:
    """Writes a value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{to_override(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_override, value)) + "]"
    if isinstance(value, str):
        # Only backslashes before a quote need escaping
        return "'" + re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value) + "'"
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
