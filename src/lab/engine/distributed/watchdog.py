"""Ends the ranks of a run together when one of them fails, and names the one that failed first."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
from torch.distributed import Store  # type: ignore[attr-defined]

from lab.engine.distributed.heartbeat import Heartbeat, Pulse, detect_failure
from lab.engine.distributed.launcher import Process
from lab.engine.utils.console import shown
from lab.engine.utils.errors import STOP_SIGNALS, Preempted, RunFailed
from lab.engine.utils.ranges import PositiveFloat

INTERVAL = 0.5  # seconds between heartbeats
GRACE_PERIOD = 3.0  # seconds that a rank has to leave by itself once the cause is known
STORE_GONE = "rank 0 is gone"  # it serves the store
CAUSE = "cause"  # key in the store


class Watchdog(pl.Callback):
    """Runs a thread in each rank that exchanges heartbeats with the others through the store that they share.

    A rank that fails records the cause there, and the others end, even while they wait for its gradients. Rank 0 also
    detects dead processes, and that no rank has made progress for `timeout` seconds.

    Args:
        timeout: seconds without a batch, counted from the first batch on, after which a run of several ranks is ended.
    """

    def __init__(self, timeout: PositiveFloat = 600.0) -> None:
        self.timeout = timeout
        self._batches = 0
        self._cause: str | None = None
        self._store: Store | None = None

    def start(
        self, store: Store, rank: int, world_size: int, children: Sequence[Process], on_abort: Callable[[str, str], Any]
    ) -> None:
        """Starts the thread.

        Args:
            store: that the ranks share.
            rank: of this process.
            world_size: how many ranks there are.
            children: the ranks that this process started.
            on_abort: called with the run's status and the cause, in rank 0, before the watchdog ends the process.
        """
        self._store, self._rank, self._world_size = store, rank, world_size
        self._children, self._on_abort = children, on_abort
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[threading.get_ident()], name="watchdog", daemon=True)
        self._thread.start()

    def stop(self, completed: bool) -> None:
        """Stops the thread, waits for the ranks that this process started, and kills those that do not end.

        Args:
            completed: whether the run is complete: then rank 0 must not end before the others.
        """
        assert self._store is not None
        self._stopped.set()
        self._thread.join(timeout=2)
        with suppress(RuntimeError):  # the store may be gone
            self._send(Heartbeat(-1, self._batches, done=True))
            deadline = time.monotonic() + 10
            while completed and self._rank == 0 and time.monotonic() < deadline:
                if all(beat.done for beat in self._receive().values()):
                    break
                time.sleep(0.05)
        for child in self._children:
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def first_failure(self, error: BaseException) -> BaseException | None:
        """Returns what to raise in place of `error` if another rank failed before; None if this rank was the first."""
        mine = f"rank {self._rank} failed first: {type(error).__name__}: {error}"
        # It may be a connection that another rank broke, which has yet to record the cause
        deadline = time.monotonic() + (GRACE_PERIOD if isinstance(error, RuntimeError) else 0)
        while self._read_cause() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        cause = self.record_cause(mine)
        if cause.startswith(f"rank {self._rank} failed first:"):  # perhaps as its error was before it was explained
            return None
        if signum := _signal(cause):
            return Preempted(signum)
        return RunFailed(cause) if self._rank == 0 else SystemExit(1)  # rank 0 reports it

    def record_cause(self, cause: str) -> str:
        """Records why the run ends, unless another rank has already; returns the first cause."""
        if self._cause is None:
            assert self._store is not None
            with suppress(RuntimeError):  # the store went with rank 0
                cause = self._store.compare_set(CAUSE, "", cause).decode()
            self._cause = cause
        return self._cause

    def check_children(self) -> str | None:
        """Returns which rank that this process started has ended with an error, and how; None if none has."""
        for rank, child in enumerate(self._children, start=1):
            status = child.poll()
            if status not in (None, 0):
                how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
                return f"rank {rank + self._rank} failed first: {how}"
        return None

    def collect_heartbeats(self, pulses: dict[int, Pulse]) -> None:
        """Reads the newest heartbeat of every rank."""
        now = time.monotonic()
        for rank, beat in self._receive().items():
            pulses[rank] = pulses.get(rank, Pulse(beat, now, now)).next(beat, now)

    def abort(self, cause: str) -> None:
        """Ends this process, whose main thread may be blocked for ever."""
        signum = _signal(cause)
        if self._rank == 0:
            self._on_abort("preempted" if signum else "failed", cause)
            os.write(2, f"error: {shown(cause)}\n".encode())
        for child in self._children:
            if child.poll() is None:
                child.kill()
        os._exit(128 + signum if signum else 1)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._batches += 1

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._batches += 1

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._batches += 1

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._store is not None and not isinstance(exception, Preempted | KeyboardInterrupt):
            self.first_failure(exception)  # at once: the others lose this rank while it is torn down

    def _run(self, main: int) -> None:
        pulses: dict[int, Pulse] = {}
        number = 0
        while not self._stopped.wait(INTERVAL):
            number += 1
            cause = self._read_cause()
            try:
                self._send(Heartbeat.of(main, number, self._batches))
                failure = self.check_children()
                if self._rank == 0 and failure is None:
                    self.collect_heartbeats(pulses)
                    failure = detect_failure(pulses, time.monotonic(), self.timeout)
            except RuntimeError:
                failure = STORE_GONE
            if failure is not None:
                cause = self.record_cause(failure)
            if cause is not None and not self._stopped.wait(GRACE_PERIOD):
                self.abort(cause)

    def _send(self, beat: Heartbeat) -> None:
        assert self._store is not None
        self._store.set(f"heartbeat-{self._rank}", json.dumps(asdict(beat)))

    def _receive(self) -> dict[int, Heartbeat]:
        assert self._store is not None
        keys = {rank: f"heartbeat-{rank}" for rank in range(self._world_size)}
        return {
            rank: Heartbeat(**json.loads(self._store.get(key)))
            for rank, key in keys.items()
            if self._store.check([key])
        }

    def _read_cause(self) -> str | None:
        if self._cause is None:
            assert self._store is not None
            try:
                self._cause = self._store.get(CAUSE).decode() if self._store.check([CAUSE]) else None
            except RuntimeError:
                self._cause = STORE_GONE
        return self._cause


def _signal(cause: str) -> int:
    """Returns the signal that stopped the rank named in `cause`; 0 if none did."""
    status = re.search(r"exit status (\d+)$", cause)
    return int(status[1]) - 128 if status and int(status[1]) - 128 in STOP_SIGNALS else 0
