"""Makes relative paths of data absolute: a run finds its files wherever it is resumed, whatever its working directory.

Paths are the keys of `paths`, and those of the data and the model that are called so: `path`, `data_dir`, `root`.
"""

import os
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.compose import leaves
from lab.engine.config.overrides import override_key, override_value, to_override

NAMED = re.compile(r"(paths\..+)|(data|model)\.(.*[._])?(path|dir|root|file|folder)s?")
NO_PATH = re.compile(r"null|\?\?\?|.*(\$\{|://).*|[^'\"]*[(\[{].*|", re.DOTALL)  # of overrides: calls, lists


def absolute_override(override: str) -> str:
    """Returns an override of the command line, with a path, or several of a sweep, made absolute."""
    key, equals, text = override.partition("=")
    if not equals or not NAMED.fullmatch(override_key(override)) or NO_PATH.fullmatch(text):
        return override
    texts = text.split(",") if re.fullmatch(r"[\w./,-]+", text) else [text]
    values = [override_value(f"{key}={one}") for one in texts]
    found = [_absolute(override_key(override), value, os.getcwd()) for value in values]
    return override if found == values else f"{key}={','.join(map(to_override, found))}"


def make_absolute(cfg: DictConfig, cwd: str) -> None:
    """Makes the paths of a config absolute, in place.

    Args:
        cfg: of a run.
        cwd: the working directory of the command line.
    """
    for key, value in [*leaves(cfg)]:
        if NAMED.fullmatch(key) and (found := _absolute(key, value, cwd)) != value:
            OmegaConf.update(cfg, key, found, merge=False)


def _absolute(key: str, value: Any, cwd: str) -> Any:
    """Returns a path in full, and any other value as it is: a name that is no file there may be one of a registry."""
    if isinstance(value, list):
        return [_absolute(key, one, cwd) for one in value]
    if not isinstance(value, str) or os.path.isabs(value) or NO_PATH.fullmatch(value):
        return value
    path = os.path.abspath(os.path.join(cwd, os.path.expanduser(value)))
    if "${" in path:  # a config could not hold it
        return value
    return path if key.startswith("paths.") or value.startswith("~") or os.path.lexists(path) else value
