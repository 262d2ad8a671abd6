"""Several ranks end together: what one of them dies of is found, told by its name, and holds nobody up."""

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
from torch import distributed

from lab.engine.distributed.preemption import SIGNALS
from lab.engine.utils.errors import Preempted, RunFailed
from lab.engine.utils.redaction import redact

log = logging.getLogger(__name__)

PATIENCE = 3.0  # seconds that a rank is given to leave by itself, its connections being broken
SILENCE = 15.0  # seconds without a word after which a process is taken for dead
LOST = re.compile(r"gloo|nccl|connection|broken pipe|timed out|socket|store", re.IGNORECASE)


class Watchdog(pl.Callback):
    """A thread in each rank that hears from the others, by way of the store that they met in.

    A rank that fails says so there, and the others leave, though they be waiting for its gradients. Rank 0 also sees
    when a process is dead, and when for `timeout` seconds no rank has come further: then the one that waits for nobody
    is to blame.

    Args:
        timeout: seconds without a batch, from the first one on, after which a run of several ranks is ended.
    """

    def __init__(self, timeout: float = 600.0) -> None:
        self.timeout = timeout
        # Rank 0 calls it before it ends from here
        self.at_end: Callable[[str, str], None] = lambda status, cause: None
        self._rank = 0
        self._world_size = 1
        self._batches = 0
        self._store: Any = None
        self._children: Sequence[subprocess.Popen[bytes]] = ()
        self._cause: str | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._main = threading.get_ident()

    def begin(self, children: Sequence["subprocess.Popen[bytes]"] = ()) -> None:
        """Starts to watch, in rank 0 the processes that it has started as well."""
        self._children = children or self._children
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Stops watching, and waits for the processes that were started; those that stay are killed."""
        self._over.set()
        if self._store is not None:
            with contextlib.suppress(RuntimeError):  # rank 0 may be gone
                self._store.set(f"beat-{self._rank}", json.dumps({"number": -1, "done": True} | self._state()))
        if self._thread is not None:
            self._thread.join(timeout=2)
        for child in self._children:
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def blame(self, error: BaseException) -> BaseException | None:
        """What to raise in place of `error` where another rank ended before; None where this was the first."""
        cause = self._blame(error) if self._world_size > 1 else None
        if cause is None:
            return None
        if signum := _signal(cause):
            return Preempted(signum)
        return RunFailed(cause) if self._rank == 0 else SystemExit(1)  # rank 0 tells of it

    def _blame(self, error: BaseException) -> str | None:
        if self._cause is None and isinstance(error, RuntimeError) and LOST.search(str(error)):
            for _ in range(int(PATIENCE * 10)):  # its connections broke: whoever broke them may yet be named
                if self._read() is not None:
                    break
                time.sleep(0.1)
        mine = f"rank {self._rank} failed first: {type(error).__name__}: {error}"
        return None if self._name(mine) == mine else self._cause

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._rank, self._world_size = trainer.global_rank, trainer.world_size
        if trainer.world_size > 1 and self._store is None:
            self._store = distributed.distributed_c10d.PrefixStore(
                "watch", distributed.distributed_c10d._get_default_store()
            )
            self.begin()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._batches += 1

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._batches += 1

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._batches += 1

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, Preempted | KeyboardInterrupt):
            self._blame(exception)  # at once: while this rank is taken down the others will lose it

    def _watch(self) -> None:
        beats: dict[int, tuple[float, int, dict[str, Any]]] = {}  # by rank: when it last changed, and what it said
        moved = time.monotonic()
        number = 0
        while not self._over.wait(0.5):
            number += 1
            cause = self._bury() or self._read()
            if cause is None and self._store is not None:
                try:
                    self._store.set(f"beat-{self._rank}", json.dumps({"number": number, **self._state()}))
                    if self._rank == 0:
                        moved = self._listen(beats, moved)
                        cause = self._judge(beats, moved)
                except RuntimeError:  # the store is rank 0's
                    cause = self._cause = "rank 0 is gone"
            if cause is not None and not self._over.wait(PATIENCE):
                self._leave(cause)

    def _bury(self) -> str | None:
        """The cause, where a process that this one started has ended with an error."""
        for rank, child in enumerate(self._children, start=1):
            status = child.poll()
            if status in (None, 0):
                continue
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
            return self._name(f"rank {rank} failed first: {how}")
        return None

    def _listen(self, beats: dict[int, tuple[float, int, dict[str, Any]]], moved: float) -> float:
        """Takes up what the ranks say; when any of them last came further."""
        now = time.monotonic()
        for rank in range(self._world_size):
            if not self._store.check([f"beat-{rank}"]):
                continue
            said = json.loads(self._store.get(f"beat-{rank}"))
            when, number, before = beats.get(rank, (now, -1, {}))
            if said["number"] != number:
                when = now
            if said["batches"] != before.get("batches"):
                moved = now
            beats[rank] = when, said["number"], said
        return moved

    def _judge(self, beats: dict[int, tuple[float, int, dict[str, Any]]], moved: float) -> str | None:
        now = time.monotonic()
        for rank, (when, _, said) in beats.items():
            if now - when > SILENCE and not said.get("done"):
                return self._name(f"rank {rank} failed first: nothing has been heard of it for {SILENCE:.0f} s")
        if now - moved > self.timeout and any(said["batches"] for _, _, said in beats.values()):
            idle = [rank for rank, (_, _, said) in sorted(beats.items()) if not said["waits"]]
            where = "; ".join(f"rank {rank} at {beats[rank][2]['where']}" for rank in idle or sorted(beats))
            who = f"rank {idle[0]} failed first: it" if idle else "the ranks wait for each other: none"
            return self._name(f"{who} has not come further for {self.timeout:.0f} s ({where})")
        return None

    def _state(self) -> dict[str, Any]:
        """How far the training of this rank is, where it stands, and whether it waits for others there."""
        frame = sys._current_frames().get(self._main)
        waits, where = False, ""
        while frame is not None:
            name = frame.f_code.co_filename
            waits |= f"torch{os.sep}distributed" in name or f"torch{os.sep}autograd" in name
            if not where and "site-packages" not in name:
                where = f"{name}:{frame.f_lineno} in {frame.f_code.co_name}"
            frame = frame.f_back
        return {"batches": self._batches, "where": where, "waits": waits}

    def _name(self, cause: str) -> str:
        """Puts `cause` down as the first, unless there is one; the first."""
        if self._cause is None and self._store is not None:
            with contextlib.suppress(RuntimeError):  # it went with rank 0
                cause = self._store.compare_set("cause", "", cause).decode()
        self._cause = self._cause or cause
        return self._cause

    def _read(self) -> str | None:
        if self._cause is None and self._store is not None:
            try:
                if self._store.check(["cause"]):
                    self._cause = self._store.get("cause").decode()
            except RuntimeError:
                self._cause = "rank 0 is gone"
        return self._cause

    def _leave(self, cause: str) -> None:
        """Ends this process from outside its main thread, which waits for what will not come."""
        signum = _signal(cause)
        if self._rank == 0:
            self.at_end("preempted" if signum else "failed", cause)
            os.write(2, f"error: {redact(cause)}\n".encode())
        for child in self._children:
            if child.poll() is None:
                child.kill()
        os._exit(128 + signum if signum else 1)


def _signal(cause: str) -> int:
    """The signal that stopped the rank that is the cause; 0 where it failed."""
    status = re.search(r"exit status (\d+)$", cause)
    return int(status[1]) - 128 if status and int(status[1]) - 128 in SIGNALS else 0
