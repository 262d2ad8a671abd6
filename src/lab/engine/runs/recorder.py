"""What a run writes down of itself while it is at work."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.runs.provenance import facts
from lab.engine.runs.run import Run
from lab.engine.utils.errors import Preempted
from lab.engine.utils.files import atomic_write
from lab.engine.utils.git import save_patch
from lab.engine.utils.locks import directory_lock


class Record(Run):
    """A run directory in the hands of the process that trains in it."""

    @contextmanager
    def recorded(self, config: DictConfig, overrides: Sequence[str]) -> Iterator[None]:
        """Writes down that the run is running and, at the end, how it ended: completed, pruned, preempted or
        failed.

        Args:
            config: what it trains with.
            overrides: the words of the command line that made it.

        Raises:
            UserError: when another process trains in this directory.
        """
        with self._claimed():
            try:
                self._start(config, overrides)
                yield
            except Preempted as stopped:
                self.finish("preempted", signal=stopped.signal.name)
                raise
            except BaseException as error:
                with suppress(OSError):  # on a full disk what failed first is to be told
                    self.finish("failed", error=f"{type(error).__name__}: {error}")
                raise
            self.finish("pruned" if "pruned" in self.record else "completed")

    def note(self, **facts: Any) -> None:
        """Adds `facts` to `run.json`."""
        self.write("run.json", self.record | facts)

    def finish(self, status: str, **facts: Any) -> None:
        """Records how the run ended."""
        self.note(status=status, finished=now(), **facts)

    def check_free(self) -> None:
        """Refuses a directory in which another process trains.

        Raises:
            UserError: with the process that does.
        """
        with self._claimed():
            pass

    def await_free(self) -> None:
        """Waits for a process that trains here, such as one that a sweep has left behind."""
        with self._claimed(timeout=-1):
            pass

    def _claimed(self, timeout: float = 0) -> AbstractContextManager[None]:
        """Keeps other processes from training here."""
        record = self.record
        what = f"is being trained in, by process {record.get('pid')} on {record.get('hostname')}"
        return directory_lock(self.dir, what, timeout)

    def _start(self, config: DictConfig, overrides: Sequence[str]) -> None:
        """Marks the run as running and makes it the latest; of a run that goes on, what it recorded before stays."""
        origin = facts() | {"argv": sys.orig_argv[1:], "pid": os.getpid()}
        if "SLURM_JOB_ID" in os.environ:
            origin["slurm_job"] = os.environ["SLURM_JOB_ID"]
            origin["slurm_restart"] = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        fresh: dict[str, Any] = {"status": "running", "started": now()}
        patch = "code.patch"
        if config.get("resume"):
            before = {name: fact for name, fact in self.record.items() if name not in ("finished", "error", "signal")}
            changed = [word for word in overrides if word not in self.overrides and not word.startswith("resume=")]
            went_on = [*before.pop("resumed", []), {"started": fresh["started"], "changed": changed} | origin]
            patch = f"code-{len(went_on)}.patch"
            record = before | {"status": "running", "pid": os.getpid(), "resumed": went_on}
            self._save_config(config, overrides)
        else:
            record = fresh | origin | {"seed": config.seed}
        save_patch(self.dir / patch)
        self.write("run.json", record)
        link = Path(config.paths.log_dir) / "latest"
        new = link.with_name(f".latest-{os.getpid()}")
        new.unlink(missing_ok=True)
        new.symlink_to(os.path.relpath(self.dir, link.parent))
        new.replace(link)

    def _save_config(self, config: DictConfig, overrides: Sequence[str]) -> None:
        """Replaces the saved config, where a run goes on with another one, such as for more epochs."""
        config = config.copy()
        config.resume, config.paths.run_dir = None, "${hydra:runtime.output_dir}"
        words = OmegaConf.create([word for word in overrides if not word.startswith("resume=")])
        for name, content in (("config.yaml", config), ("overrides.yaml", words)):
            with atomic_write(self.dir / ".hydra" / name) as partial:
                OmegaConf.save(content, partial)


def now() -> str:
    """The time, for a record."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
