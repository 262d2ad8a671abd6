"""Words of the command line, looked at before Hydra does."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from omegaconf import ListConfig, OmegaConf

from lab.engine.utils.paths import ROOT


def raw_overrides(words: Iterable[str]) -> list[str]:
    """Words that a config holds, as they were typed: what `${oc.env:NAME}` stands for is not among them."""
    plain = OmegaConf.to_container(words, resolve=False) if isinstance(words, ListConfig) else words
    return [str(word) for word in plain]  # type: ignore[union-attr]


def override_value(word: str) -> str:
    """What stands behind the `=` of a word, without quotes."""
    return word.partition("=")[2].strip("'\"")


def override_key(word: str) -> str:
    """What a word is about: what stands before its `=`, without `+` and `~`."""
    return word.lstrip("+~").partition("=")[0]


def log_dir(words: Sequence[str]) -> str:
    """Where the runs of a command line are."""
    given = [override_value(word) for word in words if word.startswith("paths.log_dir=")]
    return given[-1] if given else str(ROOT / "logs")


def to_override(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{to_override(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_override, value)) + "]"
    if isinstance(value, str):
        # A backslash counts where it stands before a quote
        return "'" + value.replace("\\'", "\\\\'").replace("'", "\\'") + "'"
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
