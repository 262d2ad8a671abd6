"""Ends the ranks of a run together when one of them fails, and names the one that failed first."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
from torch.distributed import DistError, Store  # type: ignore[attr-defined]

from lab.engine.distributed.deadline import Deadline
from lab.engine.distributed.heartbeat import KILLED, SILENCE, Heartbeat, Pulse, detect_failure, failed_first
from lab.engine.distributed.launcher import Process
from lab.engine.distributed.preemption import SignalHandler
from lab.engine.distributed.rendezvous import CAUSE, tell_others
from lab.engine.utils.console import shown
from lab.engine.utils.errors import STOP_SIGNALS, Preempted, RunFailed
from lab.engine.utils.ranges import PositiveFloat

INTERVAL = 0.5  # seconds between heartbeats
GRACE_PERIOD = 3.0  # seconds that a rank has to leave by itself once the cause is known
LIFETIME = 20.0  # seconds without a heartbeat after which the kernel kills a rank, even one that is stopped


class Watchdog(pl.Callback):
    """Runs a thread in each rank that exchanges heartbeats with the others through the store that they share.

    A rank that fails records the cause there, and the others end, even while they wait for its gradients. The same
    holds for one that is killed or stopped, or that the network loses: rank 0 watches all, the others rank 0 and those
    of their machine. One rank tells the user: rank 0, or the first that is left.

    Args:
        timeout: seconds without a batch, counted from the first batch on, after which a run of several ranks is ended.
    """

    def __init__(self, timeout: PositiveFloat = 600.0) -> None:
        self.timeout = timeout
        self._batches = 0
        self._cause: str | None = None
        self._store: Store | None = None
        self._pulses: dict[int, Pulse] = {}
        self._lost: set[int] = set()

    def start(
        self,
        store: Store,
        rank: int,
        neighbours: range,
        world_size: int,
        children: Sequence[Process],
        signals: SignalHandler,
        on_abort: Callable[[str, str], Any],
    ) -> None:
        """Starts the thread.

        Args:
            store: that the ranks share.
            rank: of this process.
            neighbours: ranks of this machine.
            world_size: how many ranks there are.
            children: the ranks that this process started.
            signals: of this process, for which all ranks stop.
            on_abort: called with the run's status and the cause, in the rank that tells the user of it.
        """
        self._store, self._rank, self._neighbours, self._world_size = store, rank, neighbours, world_size
        self._children, self._signals, self._on_abort = children, signals, on_abort
        signals.is_shared = True
        self._deadline = Deadline(LIFETIME)
        self._stopped = threading.Event()
        self._answered = time.monotonic()
        self._thread = threading.Thread(target=self._run, args=[threading.get_ident()], name="watchdog", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch_store, name="watchdog of the store", daemon=True).start()

    def stop(self, together: bool) -> None:
        """Stops the thread, waits for the ranks that this process started, and kills those that do not end.

        Args:
            together: whether all ranks end by themselves: then rank 0 must not end before the others.
        """
        assert self._store is not None
        self._stopped.set()
        self._thread.join(timeout=2)
        with suppress(RuntimeError):  # the store may be gone
            self._send(Heartbeat(-1, batches=self._batches, done=True))
            deadline = time.monotonic() + 10
            while together and self._rank == 0 and time.monotonic() < deadline:
                if all(beat.done for beat in self._receive(range(self._world_size)).values()):
                    break
                time.sleep(0.05)
        self._deadline.cancel()
        for child in self._children:
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def first_failure(self, error: BaseException) -> BaseException | None:
        """Returns what to raise in place of `error` if another rank failed before; None if this rank was the first."""
        # It may be a connection that another rank broke, whose silence is not over yet
        patience = GRACE_PERIOD if isinstance(error, RuntimeError) else 0
        self._await_cause(SILENCE + patience if _is_lost_connection(error) else patience)
        cause = self.record_cause(failed_first(self._rank, f"{type(error).__name__}: {error}"))
        return None if cause.startswith(failed_first(self._rank)) else self._end(cause)

    def loss(self, stopped: Preempted) -> BaseException | None:
        """Returns what to raise in a rank that torchrun stops: it does so when another rank was lost.

        Of a signal that came outside of the training loop the other ranks hear here.
        """
        if self._signals.has_stopped:
            return None
        if "TORCHELASTIC_RUN_ID" in os.environ:
            self._await_cause(GRACE_PERIOD)
        if self._cause is None:
            self.record_cause(failed_first(self._rank, f"ended with exit status {stopped.code}"))
            return None
        if _signal(self._cause) and stopped.signal not in STOP_SIGNALS:  # a queue has warned both
            return None
        return self._end(self._cause)

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
                return failed_first(rank + self._rank, how)
        return None

    def collect_heartbeats(self) -> None:
        """Reads the newest heartbeat of the ranks that this one watches."""
        now = time.monotonic()
        watched = range(self._world_size) if self._rank == 0 else sorted({0, *self._neighbours})
        for rank, beat in self._receive(watched).items():
            self._pulses[rank] = self._pulses.get(rank, Pulse(beat, now, now)).next(beat, now)

    def is_first_left(self) -> bool:
        """Returns whether this rank tells the user: rank 0, or if it is lost the first that is left on its machine."""
        now = time.monotonic()
        lost = {rank for rank, pulse in self._pulses.items() if not pulse.beat.done and pulse.loss(now)} | self._lost
        left = [rank for rank in self._neighbours if rank == self._rank or rank not in lost]
        return self._rank == left[0] and (self._rank == 0 or 0 in lost)

    def abort(self, cause: str) -> None:
        """Ends this process, whose main thread may be blocked for ever."""
        signum = _signal(cause)
        if self.is_first_left():
            self._on_abort("preempted" if signum else "failed", cause)
            os.write(2, f"error: {shown(cause)}\n".encode())
            if 0 not in self._lost:  # else the store may never answer
                with suppress(RuntimeError):
                    tell_others(self._store, int(self._rank == 0 and len(self._pulses) < self._world_size))  # type: ignore[arg-type]
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
        assert self._store is not None
        number = 0
        while not self._stopped.wait(INTERVAL):
            number += 1
            cause = self._read_cause()
            try:
                self._deadline.extend()
                self._send(Heartbeat.of(main, number, self._batches))
                self._signals.agree(self._store, self._rank, self._world_size)
                failure = self.check_children()
                if failure is None:
                    self.collect_heartbeats()
                    failure = detect_failure(self._pulses, time.monotonic(), self.timeout)
            except RuntimeError:
                failure = self._store_failure()
            if failure is not None:
                cause = self.record_cause(failure)
            if cause is not None and not self._stopped.wait(GRACE_PERIOD):
                self.abort(cause)
            self._answered = time.monotonic()

    def _watch_store(self) -> None:
        """Ends this process when the store has not answered for as long as a rank may be silent: it asks for ever.

        Ends it silently when it was stopped for about as long, and goes on, as Slurm lets it before it ends a step: the
        others have counted this rank as dead, and one of them has told the user.
        """
        ran = time.monotonic()
        while not self._stopped.wait(INTERVAL):
            before, ran = ran, time.monotonic()
            if ran - before > SILENCE - 1:
                os._exit(1)
            if ran - self._answered > SILENCE:
                self.abort(self._store_failure())

    def _send(self, beat: Heartbeat) -> None:
        assert self._store is not None
        self._store.set(f"heartbeat-{self._rank}", json.dumps(asdict(beat)))

    def _receive(self, ranks: Iterable[int]) -> dict[int, Heartbeat]:
        assert self._store is not None
        keys = {rank: f"heartbeat-{rank}" for rank in ranks}
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
                self._cause = self._store_failure()
        return self._cause

    def _await_cause(self, seconds: float) -> None:
        """Waits until the cause is known, for at most `seconds`."""
        deadline = time.monotonic() + seconds
        while self._read_cause() is None and time.monotonic() < deadline:
            time.sleep(0.1)

    def _end(self, cause: str) -> BaseException:
        """Returns what ends this rank, another having failed."""
        if signum := _signal(cause):
            return Preempted(signum)
        if not self.is_first_left():
            return SystemExit(1)
        if self._rank:  # rank 0 records its own error
            self._on_abort("failed", cause)
        return RunFailed(cause)

    def _store_failure(self) -> str:
        """Returns the cause where the store does not answer, which rank 0 or torchrun serves on the first machine."""
        self._lost.add(0)
        pulse = self._pulses.get(0)
        host = "" if pulse is None else f" on {pulse.beat.host}"
        gone = pulse is not None and pulse.beat.is_gone()
        return f"rank 0{host} failed first: {KILLED if gone else 'no answer from the store that the ranks share'}"


def _is_lost_connection(error: BaseException) -> bool:
    """Returns whether an error is that of a rank whose partner has gone."""
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _signal(cause: str) -> int:
    """Returns the signal that stopped the rank named in `cause`; 0 if none did."""
    status = re.search(r"exit status (\d+)$", cause)
    return int(status[1]) - 128 if status and int(status[1]) - 128 in STOP_SIGNALS else 0
