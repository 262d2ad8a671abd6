"""Reads run directories fast: two hundred in half a second."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lab.engine.analysis.events import Curves, read_scalars
from lab.engine.config.compose import find_log_dir
from lab.engine.runs.run import Run
from lab.engine.sweeps.constraints import parse_constraints
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import read_record, undamaged
from lab.engine.utils.names import nearest

KEYS = ("trainer", "data", "model", "objective")
CONFIG = {**dict.fromkeys(KEYS, (dict, type(None))), "seed": (int, str, type(None))}  # kinds in config.yaml
ORDER = ("completed", "pruned", "running", "preempted", "failed", "unknown")


@dataclass(frozen=True)
class RunRecord:
    """Holds what the files of one run's directory say."""

    dir: Path
    config: dict[str, Any]  # as it was saved, interpolations unresolved
    overrides: list[str]  # of its command line
    metadata: dict[str, Any]  # run.json
    metrics: dict[str, float]  # metrics.json
    sweep: dict[str, Any]  # sweep.json of the sweep that it is a job of

    @classmethod
    def read(cls, directory: Path) -> "RunRecord":
        """Reads the run in `directory`; a file that is not there counts as empty.

        Raises:
            Damaged: when one of its files is.
        """
        run = Run(directory)
        return cls(
            directory,
            read_record(directory / ".hydra" / "config.yaml", CONFIG),
            [str(word) for word in read_record(directory / ".hydra" / "overrides.yaml", [object])],
            run.metadata,
            run.metrics,
            Sweep(directory.parent).metadata,
        )

    @property
    def name(self) -> str:
        """Returns the directory's name, for a job of a sweep with the sweep's name before it."""
        return f"{self.dir.parent.name}/{self.dir.name}" if self.dir.name.isdecimal() else self.dir.name

    @property
    def seed(self) -> int | None:
        return self.config.get("seed")

    @property
    def status(self) -> str:
        """Returns the status in `run.json`; `unknown` for one that no run has, or without that file."""
        status = self.metadata.get("status")
        return status if status in ORDER else "unknown"

    @property
    def broken(self) -> list[str]:
        """Returns the constraints of its sweep that its metrics break."""
        texts = self.sweep.get("hydra", {}).get("sweeper", {}).get("constraints") or []
        return [c.text for c in parse_constraints(texts) if not c.is_early and c.violation(self.metrics) > 0]

    @cached_property
    def curves(self) -> Curves:
        return read_scalars(self.dir / "tensorboard")

    @cached_property
    def epochs(self) -> dict[int, int]:
        """Returns the epoch, counted from 1, of each step at which Lightning logged it."""
        return {step: int(epoch) + 1 for step, epoch in self.curves.get("epoch", {}).items()}


def find_runs(directories: Sequence[str], log_dir: str | Path | None = None) -> list[RunRecord]:
    """Reads the runs in `directories`, each once; in order of their names, jobs in order of their numbers.

    Args:
        directories: of runs, of sweeps, folders above them, or `latest`: what ran last, of a job its sweep; none: the
            newest sweep, or what ran last where there is no sweep.
        log_dir: where runs are; where none is given, `paths.log_dir` of configs/.

    Raises:
        UserError: when one of them is no directory, holds no run, or is a run with a damaged file; one in a folder is
            left out, with a warning.
    """
    logs = Path(log_dir or find_log_dir()) if not directories or "latest" in directories else Path()
    if not directories:
        sweeps = sorted((logs / "sweeps").glob("*/*/"))
        directories = [str(sweeps[-1]) if sweeps else "latest"]
    found: dict[Path, RunRecord] = {}
    for word in directories:
        path = _latest(logs) if word == "latest" else Path(word)
        if not path.is_dir():
            beside = [str(p) for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
            raise UserError(f"{word}: no such directory{nearest(word, [*beside, 'latest'])}")
        inside = [*_directories(path.resolve())]
        if not inside:
            raise UserError(f"{word} holds no run: a run's directory has .hydra/config.yaml")
        read = map(RunRecord.read, inside) if len(inside) == 1 else undamaged(RunRecord.read, inside)
        found |= {run.dir: run for run in read}
    return [*found.values()]


def _latest(log_dir: Path) -> Path:
    latest = log_dir / "latest"
    if not latest.is_dir():
        raise UserError(f"latest: no run under {log_dir} yet; `make train` makes one")
    run = latest.resolve()
    return run.parent if run.is_relative_to((log_dir / "sweeps").resolve()) else run


def _directories(folder: Path) -> Iterator[Path]:
    """Yields every run directory at or below `folder`; searches none of them further, and follows no links."""
    if (folder / ".hydra" / "config.yaml").is_file():
        yield folder
        return
    inside = [p for p in folder.iterdir() if p.is_dir() and not p.is_symlink() and not p.name.startswith(".")]
    for path in sorted(inside, key=lambda p: (not p.name.isdecimal(), len(p.name) * p.name.isdecimal(), p.name)):
        yield from _directories(path)
