"""Reads the settings of this project from pyproject.toml."""

import tomllib
from functools import cache
from typing import Any

from lab.engine.utils.paths import ROOT


@cache
def project_settings() -> dict[str, Any]:
    """Returns `[tool.lab]` of pyproject.toml: resolvers, allowed packages, readable environment variables."""
    path = ROOT / "pyproject.toml"
    table: dict[str, Any] = tomllib.loads(path.read_text()).get("tool", {}).get("lab", {}) if path.is_file() else {}
    return table
