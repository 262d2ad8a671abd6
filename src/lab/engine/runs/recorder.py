"""Records a run in its directory while it is running: status, metadata, config."""

import os
import signal
import sys
from bdb import BdbQuit
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lab.engine.config.drawn import RUN_DIR, resolve_drawn
from lab.engine.config.identity import training_limits
from lab.engine.config.overrides import override_key, raw_overrides
from lab.engine.runs.provenance import collect_metadata
from lab.engine.runs.run import FINISHED, Run
from lab.engine.utils.errors import Preempted, UserError, machine_failure
from lab.engine.utils.files import atomic_write
from lab.engine.utils.formats import FORMAT
from lab.engine.utils.git import save_patch
from lab.engine.utils.locks import directory_lock
from lab.engine.utils.processes import scheduled_jobs

START_KEYS = ("resume", "attach", "changes")  # they say how a process starts, and are not saved with the run


class Recorder(Run):
    """Records the run that this process trains."""

    @contextmanager
    def recording(self, config: DictConfig) -> Iterator[None]:
        """Records that the run is running and, at the end, how it ended: completed, pruned, preempted or failed.

        Args:
            config: of the run; its `resume` is the run's own directory where it continues from a checkpoint.

        Raises:
            UserError: when another process trains in this directory, or has trained a run in it since the command line
                was checked.
        """
        with self.locked():
            again = config.get("resume") or config.get("attach") or "resume=auto" in _typed()
            if not again:
                self.check_new()
            try:
                self._start(config)
                yield
            except Preempted as stopped:
                self.finish("preempted", signal=stopped.signal.name)
                raise
            except BdbQuit:  # `q` at a breakpoint
                self.finish("preempted", signal=signal.SIGINT.name)
                raise Preempted(signal.SIGINT) from None
            except BaseException as error:
                failure = machine_failure(error, self.dir) or error
                with suppress(OSError):  # of a full disk: the first error is the one to report
                    notes = getattr(error, "__notes__", [])  # such as the rank that failed
                    self.finish("failed", error="\n".join([f"{type(failure).__name__}: {failure}", *notes]))
                if failure is not error:
                    raise failure from error
                raise
            self.finish("pruned" if "pruned" in self.metadata else "completed")

    def is_finished(self, config: DictConfig) -> bool:
        """Returns whether `resume=auto` found a finished run, so that nothing is left to do."""
        return bool(config.get("resume") == "auto" and self.status in FINISHED)

    def is_trained(self, config: DictConfig) -> bool:
        """Returns whether the run was trained to the end that `config` sets."""
        return bool(self.metadata.get("trained") == training_limits(config))

    def mark_trained(self, config: DictConfig) -> None:
        """Records that the run was trained to the end that `config` sets."""
        self.update(trained=training_limits(config))

    def check_new(self) -> None:
        """Refuses to begin a run where one was begun before.

        Raises:
            UserError: with the ways out.
        """
        if (self.dir / "run.json").exists():
            raise UserError(
                f"{self.dir} holds a run already: resume it with resume={quote(str(self.dir))}, or choose another"
                " hydra.run.dir"
            )

    def update(self, **metadata: Any) -> None:
        """Adds run metadata to `run.json`."""
        self.write("run.json", self.metadata | metadata)

    def finish(self, status: str, **metadata: Any) -> None:
        """Records how the run ended."""
        self.update(status=status, finished=now(), **metadata)

    def locked(self, timeout: float = 0) -> AbstractContextManager[None]:
        """Locks the run's directory against other processes; waits up to `timeout` seconds for one that trains here.

        Raises:
            UserError: when another process still trains here, with its number.
        """
        metadata = self.metadata
        what = f"is being trained in, by process {metadata.get('pid')} on {metadata.get('hostname')}"
        return directory_lock(self.dir, what, timeout)

    def _start(self, config: DictConfig) -> None:
        """Marks the run as running and as the latest; a resumed run keeps the metadata of its earlier starts."""
        origin = collect_metadata() | {"argv": sys.orig_argv[1:], "pid": os.getpid(), "jobs": scheduled_jobs()}
        metadata: dict[str, Any] = {"format": FORMAT, "status": "running", "started": now()}
        patch = "code.patch"
        if config.get("resume"):
            ends = ("finished", "error", "signal")
            before = {name: value for name, value in self.metadata.items() if name not in ends}
            changed = [override for override in _changes(config) if override not in self.overrides]
            resumed = [*before.get("resumed", []), {"started": metadata["started"], "changed": changed} | origin]
            patch = f"code-{len(resumed)}.patch"
            metadata = before | {"status": "running", "pid": os.getpid(), "resumed": resumed}
        else:
            metadata |= origin | {"seed": config.seed}
        (self.dir / ".hydra").mkdir(exist_ok=True)
        composed: Any = HydraConfig.instance().cfg
        attached = config.get("attach") or config.get("resume")  # then the rest of `.hydra` exists already
        save_config(self.dir, config, None if attached else composed)
        save_patch(self.dir / patch)
        self.write("run.json", metadata)
        link = Path(config.paths.log_dir) / "latest"
        link.parent.mkdir(parents=True, exist_ok=True)  # hydra.run.dir may be elsewhere
        with atomic_write(link) as partial:
            partial.symlink_to(os.path.relpath(self.dir, link.parent))


def save_config(directory: Path, config: DictConfig, composed: DictConfig | None = None) -> None:
    """Saves the config of a run, and the overrides that made it, in the run's `.hydra`.

    Args:
        directory: of the run.
        config: of the run; values that are drawn once per run are saved resolved, other interpolations unresolved.
        composed: the same with its `hydra` node, which is saved beside it together with the overrides; None where
            they are saved already.
    """
    hydra = None if composed is None else composed.hydra
    saved = resolve_drawn(config, hydra)
    for name in START_KEYS:
        saved[name] = [] if name == "changes" else None
    saved.paths.run_dir = RUN_DIR
    files: dict[str, Any] = {"config.yaml": saved}
    if hydra is not None:
        overrides = [o for o in raw_overrides(hydra.overrides.task) if override_key(o) not in START_KEYS]
        node = OmegaConf.to_container(hydra, resolve=False, enum_to_str=True)
        files |= {"overrides.yaml": OmegaConf.create(overrides), "hydra.yaml": OmegaConf.create({"hydra": node})}
    elif changes := _changes(config):
        files["overrides.yaml"] = OmegaConf.create(_replace(Run(directory).overrides, changes))
    for name, content in files.items():
        with atomic_write(directory / ".hydra" / name) as partial:
            OmegaConf.save(content, partial)


def _typed() -> list[str]:
    """Returns the raw overrides of the process's command line, or of its job in a sweep; none where Hydra runs none."""
    return raw_overrides(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _changes(config: DictConfig) -> list[str]:
    """Returns the raw overrides that stood beside `resume=`."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return plain.get("changes") or []


def _replace(overrides: Sequence[str], changes: Sequence[str]) -> list[str]:
    """Returns `overrides` with `changes`, in place of those that set the same keys."""
    changed = set(map(override_key, changes))
    return [*(override for override in overrides if override_key(override) not in changed), *changes]


def now() -> str:
    """Returns the local time in ISO format, for run metadata."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
