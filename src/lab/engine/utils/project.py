"""What this checkout adds to the engine."""

import tomllib
from functools import cache
from typing import Any

from lab.engine.utils.paths import ROOT


@cache
def project_settings() -> dict[str, Any]:
    """Reads `[tool.lab]` of pyproject.toml: what this checkout adds to the engine."""
    path = ROOT / "pyproject.toml"
    settings: dict[str, Any] = tomllib.loads(path.read_text()).get("tool", {}).get("lab", {}) if path.is_file() else {}
    return settings
