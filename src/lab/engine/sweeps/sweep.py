"""Reads a sweep's directory: its metadata, its jobs and its objectives."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.engine.config.compose import find_log_dir
from lab.engine.runs.run import Run
from lab.engine.sweeps.constraints import Constraint, parse_constraints
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import atomic_write, check_name, read_record, refuse_damaged, undamaged
from lab.engine.utils.names import nearest
from lab.engine.utils.redaction import redact

FILE = "sweep.json"
OBJECTIVE = {"metric": str, "mode": str}
KINDS: dict[str, Any] = {  # in sweep.json
    **dict.fromkeys(("status", "started", "sweeper"), str),
    **dict.fromkeys(("space", "choices", "config"), dict),
    "overrides": list,
    "resumed": list,
    "hydra": {"sweeper": {"constraints": (list, type(None))}},
    "launcher": {"settings": dict},
    "objectives": [OBJECTIVE],
}


@dataclass(frozen=True)
class Objective:
    """Names a metric that a sweep optimizes.

    Args:
        metric: its name in `metrics.json`.
        mode: whether `min` or `max` of it is best.
    """

    metric: str
    mode: str

    @property
    def sign(self) -> int:
        """Returns 1 or -1: the metric times this is lower where it is better."""
        return {"min": 1, "max": -1}[self.mode]


@dataclass(frozen=True)
class Sweep:
    """Reads a sweep from its directory.

    Args:
        dir: holds `sweep.json`, and the directory of each job under its number.
    """

    dir: Path

    @classmethod
    def open(cls, path: str | Path, log_dir: str | Path | None = None, argument: str = "sweep") -> "Sweep":
        """Opens the sweep at `path`, or with `latest` the one begun last under `log_dir`.

        Args:
            path: of the sweep's directory.
            log_dir: where sweeps are; where none is given, `paths.log_dir` of configs/.
            argument: what a user calls `path`, for errors.

        Raises:
            UserError: when there is no sweep.
        """
        directory = Path(path)
        if str(path) != "latest" and (directory / FILE).is_file():
            check_name(directory.resolve())
            return cls(directory.resolve())
        log_dir = log_dir or find_log_dir()
        sweeps = [cls(found.parent) for found in Path(log_dir).glob(f"sweeps/*/*/{FILE}")]
        begun = undamaged(lambda sweep: (str(sweep.metadata.get("started")), str(sweep.dir)), sweeps)
        known = [Path(directory) for _, directory in sorted(begun)]
        if str(path) != "latest":
            if (directory.resolve().parent / FILE).is_file():
                raise UserError(f"{argument}={path} is one job of a sweep: give {directory.resolve().parent}")
            raise UserError(
                f"{argument}={path} is no sweep: it holds no {FILE}" + nearest(str(path), [*map(str, known), "latest"])
            )
        if not known:
            raise UserError(f"{argument}=latest: no sweep under {log_dir} yet; `make sweep` makes one")
        return cls(known[-1].resolve())

    @property
    def metadata(self) -> dict[str, Any]:
        """Reads `sweep.json`; empty before the sweep has begun."""
        content: dict[str, Any] = read_record(self.dir / FILE, KINDS)
        return content

    @property
    def status(self) -> str:
        """Returns running, completed, failed or preempted; a sweep that was killed stays running."""
        return str(self.metadata.get("status", "unknown"))

    @property
    def objectives(self) -> list[Objective]:
        """Returns the objectives; of several the first is the main one."""
        found = self.metadata.get("objectives", [])
        if any({*one} != {*OBJECTIVE} or one["mode"] not in ("min", "max") for one in found):
            refuse_damaged(self.dir / FILE, f"objectives is {found!r:.60}")
        return [Objective(**one) for one in found]

    @property
    def constraints(self) -> list[Constraint]:
        """Returns the constraints on its jobs."""
        return parse_constraints(self.metadata.get("hydra", {}).get("sweeper", {}).get("constraints") or [])

    @property
    def jobs(self) -> dict[int, Run]:
        """Returns the runs that have begun, by number."""
        numbers = sorted(int(path.parent.name) for path in self.dir.glob("*/run.json") if path.parent.name.isdigit())
        return {number: self.job(number) for number in numbers}

    def job(self, number: int) -> Run:
        """Returns the run with this number; it may not have begun."""
        return Run(self.dir / str(number))

    def update(self, **metadata: Any) -> None:
        """Adds `metadata` to `sweep.json`; secrets of the environment are left out."""
        with atomic_write(self.dir / FILE) as partial:
            partial.write_text(json.dumps(redact(self.metadata | metadata), indent=2) + "\n")
