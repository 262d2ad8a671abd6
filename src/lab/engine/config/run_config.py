"""Describes, as signatures, the keys of a run's config that belong to no class."""

from collections.abc import Callable
from typing import Any, Literal

from lab.engine.utils.ranges import PositiveInt, Seed

# True is the mode default
Compile = bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
MatmulPrecision = Literal["highest", "high", "medium"]


def run(
    *,
    data: dict[str, Any] | None,
    model: dict[str, Any],
    optimizer: dict[str, Any] | None,
    scheduler: dict[str, Any] | None,
    trainer: dict[str, Any],
    callbacks: dict[str, Any] | None,
    logger: dict[str, Any] | None,
    paths: dict[str, Any],
    dims: dict[str, Any],
    objective: dict[str, Any] | None,
    weights: dict[str, Any],
    sweep: dict[str, Any],
    resume: str | None,
    attach: str | None,
    changes: list[str],
    seed: Seed,
    fit: bool,
    test: bool,
    compile: Compile,  # noqa: A002
    matmul_precision: MatmulPrecision | None = None,
    fast_loop: bool,
    **own: Any,
) -> None:
    """Lists the keys of every run; `own` ones are for interpolations."""


def objective(*, metric: str, mode: Literal["min", "max"]) -> None:
    """Defines which checkpoint is the best."""


def scheduler(
    *,
    scheduler: dict[str, Any],
    interval: Literal["step", "epoch"] = "epoch",
    frequency: PositiveInt = 1,
    monitor: str | None = None,
    strict: bool = True,
    name: str | None = None,
    reduce_on_plateau: bool = False,
) -> None:
    """Lists the keys of Lightning's dictionary of a learning-rate schedule."""


def weights(*, path: str | None, strict: bool, map: dict[str, str]) -> None:  # noqa: A002
    """Says which weights training begins with; see `checkpointing.weights`."""


def sweep(*, name: str, resume: str | None) -> None:
    """Names the sweep that a run is part of."""


NODES: dict[str, Callable[..., None]] = {
    "": run,
    "objective": objective,
    "scheduler": scheduler,
    "sweep": sweep,
    "weights": weights,
}
