"""What a run writes down of itself while it is at work."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lab.engine.config.drawn import RUN_DIR, resolve_drawn
from lab.engine.config.overrides import override_key, raw_overrides
from lab.engine.runs.provenance import facts
from lab.engine.runs.run import FINISHED, Run
from lab.engine.utils.errors import Preempted
from lab.engine.utils.files import atomic_write
from lab.engine.utils.formats import FORMAT
from lab.engine.utils.git import save_patch
from lab.engine.utils.locks import directory_lock

ASKED = ("resume", "attach", "changes")  # how a run is begun, which is no part of what it is


class Recorder(Run):
    """A run directory in the hands of the process that trains in it."""

    @contextmanager
    def recorded(self, config: DictConfig) -> Iterator[None]:
        """Writes down that the run is running and, at the end, how it ended: completed, pruned, preempted or failed.

        Args:
            config: what it trains with; its `resume` is the run's own directory where it goes on from a checkpoint.

        Raises:
            UserError: when another process trains in this directory.
        """
        with self.locked():
            try:
                self._start(config)
                yield
            except Preempted as stopped:
                self.finish("preempted", signal=stopped.signal.name)
                raise
            except BaseException as error:
                with suppress(OSError):  # on a full disk what failed first is to be told
                    self.finish("failed", error=f"{type(error).__name__}: {error}")
                raise
            self.finish("pruned" if "pruned" in self.record else "completed")

    def is_finished(self, config: DictConfig) -> bool:
        """Tells whether nothing is left to do: `resume=auto` found the run at its end."""
        return bool(config.get("resume") == "auto" and self.status in FINISHED)

    def update(self, **facts: Any) -> None:
        """Adds `facts` to `run.json`."""
        self.write("run.json", self.record | facts)

    def finish(self, status: str, **facts: Any) -> None:
        """Records how the run ended."""
        self.update(status=status, finished=now(), **facts)

    def locked(self, timeout: float = 0) -> AbstractContextManager[None]:
        """Keeps other processes from training here, after waiting `timeout` seconds for one that does.

        Raises:
            UserError: with the process that trains here.
        """
        record = self.record
        what = f"is being trained in, by process {record.get('pid')} on {record.get('hostname')}"
        return directory_lock(self.dir, what, timeout)

    def _start(self, config: DictConfig) -> None:
        """Marks the run as running and makes it the latest; of a run that goes on, what it recorded before stays."""
        origin = facts() | {"argv": sys.orig_argv[1:], "pid": os.getpid()}
        if "SLURM_JOB_ID" in os.environ:
            origin["slurm_job"] = os.environ["SLURM_JOB_ID"]
            origin["slurm_restart"] = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        record: dict[str, Any] = {"format": FORMAT, "status": "running", "started": now()}
        patch = "code.patch"
        if config.get("resume"):
            before = {name: fact for name, fact in self.record.items() if name not in ("finished", "error", "signal")}
            changed = [word for word in _changes(config) if word not in self.overrides]
            resumed = [*before.get("resumed", []), {"started": record["started"], "changed": changed} | origin]
            patch = f"code-{len(resumed)}.patch"
            record = before | {"status": "running", "pid": os.getpid(), "resumed": resumed}
        else:
            record |= origin | {"seed": config.seed}
        (self.dir / ".hydra").mkdir(exist_ok=True)
        composed: Any = HydraConfig.instance().cfg
        attached = config.get("attach") or config.get("resume")  # then the rest of `.hydra` is there already
        save_config(self.dir, config, None if attached else composed)
        save_patch(self.dir / patch)
        self.write("run.json", record)
        link = Path(config.paths.log_dir) / "latest"
        new = link.with_name(f".latest-{os.getpid()}")
        new.unlink(missing_ok=True)
        new.symlink_to(os.path.relpath(self.dir, link.parent))
        new.replace(link)


def save_config(directory: Path, config: DictConfig, composed: DictConfig | None = None) -> None:
    """Saves in `.hydra` what a run goes on with whenever it is resumed, and how its config came about.

    Args:
        directory: of the run.
        config: of the run; what is drawn once per run is saved as it was drawn, every other interpolation unresolved.
        composed: what Hydra knows of the run, whose `hydra` node and overrides are saved beside it; None where they
            are there already.
    """
    hydra = None if composed is None else composed.hydra
    saved = resolve_drawn(config, hydra)
    for name in ASKED:
        saved[name] = [] if name == "changes" else None
    saved.paths.run_dir = RUN_DIR
    files: dict[str, Any] = {"config.yaml": saved}
    if hydra is not None:
        typed = [word for word in raw_overrides(hydra.overrides.task) if override_key(word) not in ASKED]
        node = OmegaConf.to_container(hydra, resolve=False, enum_to_str=True)
        files |= {"overrides.yaml": OmegaConf.create(typed), "hydra.yaml": OmegaConf.create({"hydra": node})}
    elif changes := _changes(config):
        files["overrides.yaml"] = OmegaConf.create(_replace(Run(directory).overrides, changes))
    for name, content in files.items():
        with atomic_write(directory / ".hydra" / name) as partial:
            OmegaConf.save(content, partial)


def _changes(config: DictConfig) -> list[str]:
    """What the command line gave anew, beside resume=."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return plain.get("changes") or []


def _replace(overrides: Sequence[str], changes: Sequence[str]) -> list[str]:
    anew = set(map(override_key, changes))
    return [*(word for word in overrides if override_key(word) not in anew), *changes]


def now() -> str:
    """Returns the time, for a record."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
