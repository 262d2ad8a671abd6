"""Exposes the public names of lab, a research template on Hydra and PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.engine.cli.notebook import compose, train
    from lab.engine.runs.run import Run
    from lab.engine.sweeps.sweep import Sweep

__all__ = ["Run", "Sweep", "compose", "train"]

_HOMES = {
    "Run": "lab.engine.runs.run",
    "Sweep": "lab.engine.sweeps.sweep",
    "compose": "lab.engine.cli.notebook",
    "train": "lab.engine.cli.notebook",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is asked for: none of them loads torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Lists the public names, for completion by Tab."""
    return __all__
