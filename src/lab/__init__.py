"""lab: a research template on Hydra and PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.engine.runs.run import Run
    from lab.engine.sweeps.sweep import Sweep

__all__ = ["Run", "Sweep"]


def __getattr__(name: str) -> Any:
    """Imports `Run` and `Sweep` when they are asked for: neither loads torch."""
    if name == "Run":
        from lab.engine.runs.run import Run

        return Run
    if name == "Sweep":
        from lab.engine.sweeps.sweep import Sweep

        return Sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
