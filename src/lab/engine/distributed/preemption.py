"""Handles signals: saves a checkpoint between two batches, then ends the run."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from types import FrameType, TracebackType
from typing import Any

from pytorch_lightning.utilities import rank_zero_only
from torch.distributed import Store  # type: ignore[attr-defined]

from lab.engine.distributed import slurm
from lab.engine.utils.errors import STOP_SIGNALS, Preempted

log = logging.getLogger(__name__)

REPEAT = 0.4  # seconds in which a terminal, a shell and a launcher may send the same signal, each for itself
STOP = "stop"  # key in the store: the signal that stops the run


@contextmanager
def preemption(run_dir: Path) -> Iterator["SignalHandler"]:
    """Handles signals while a run is running. When one stops the run, rank 0 logs how to resume it.

    A queue that warned of the end of the job's time is asked to requeue the job.

    Args:
        run_dir: of the run, where its checkpoints are.

    Raises:
        Preempted: in every rank, when any of them received a signal.
    """
    try:
        with SignalHandler() as handler:
            yield handler
    except Preempted as stopped:
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            saved = (run_dir / "checkpoints" / "last.ckpt").is_file()
            command = f"resume with: python src/train.py resume={quote(str(run_dir))}"
            advice = command if saved else "there is no checkpoint yet"
            log.info("stopped by %s; %s", stopped.signal.name, advice)
            if stopped.signal in slurm.WARNINGS:
                slurm.requeue()
        raise


class SignalHandler:
    """Receives signals, and tells the training loop when to stop.

    At the first signal the loop finishes the current step or validation, saves, and raises `Preempted`. Outside of the
    loop there is nothing to save, and `Preempted` is raised at once. The second signal ends the process immediately,
    unless it follows within `REPEAT` seconds. Slurm's warning is not counted: the SIGTERM that it announces may come
    while the run is still being saved, and only one more ends the process. What is ignored, as `nohup` does with
    SIGHUP, stays so.

    With several ranks any of them may receive the signal, and all stop after the same batch, see `agree`. No step waits
    for that, unless a signal has come.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.in_loop = False
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self.is_shared = False  # with other ranks: a thread calls `agree`
        self.has_stopped = False  # together with them
        self._is_agreed = False
        self._asked = 0  # calls of `received`
        self._stop_at: int | None = None  # the call that returns the signal; until it is agreed, the one that waits
        self._changed = threading.Condition()

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            signals = [*STOP_SIGNALS, *slurm.warning_signals()]
            heard = [signum for signum in signals if signal.getsignal(signum) != signal.SIG_IGN]
            self._previous = {signum: signal.signal(signum, self._receive) for signum in heard}
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._previous_pipe = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            threading.Thread(target=self._exit_at_second_signal, args=[self._pipe[0]], daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._previous_pipe)
            os.close(self._pipe[1])  # ends the thread that reads the other end

    def install(self) -> None:
        """Installs our handlers again, after Lightning has installed its own."""
        for signum in self._previous:
            signal.signal(signum, self._receive)

    def raise_if_received(self) -> None:
        """Raises Preempted if a signal came too late for the loop to stop at."""
        if self.signum:
            raise Preempted(self.signum)

    def received(self) -> int:
        """Returns the signal that any rank received, 0 for none; the same on every rank. Called between two batches."""
        if not self.is_shared:
            return self.signum
        with self._changed:
            self._asked += 1
            if self._stop_at is None and not self.signum:
                return 0
            self._changed.wait_for(lambda: self._is_agreed)
            assert self._stop_at is not None
            self.has_stopped = self._asked >= self._stop_at
            return self.signum if self.has_stopped else 0

    def agree(self, store: Store, rank: int, world_size: int) -> None:
        """Agrees with the other ranks when to stop, once any of them has received a signal. A thread calls it often.

        Each rank posts the number of its next call of `received`, and waits there until all ranks have posted; one that
        has received the signal waits at once, so that the others come no further than a batch. This is no deadlock:
        their threads post even while they wait for gradients of a rank that waits. All stop at the call with the
        largest number, as no rank has come further.
        """
        if self._is_agreed or not (self.signum or store.check([STOP])):
            return
        if self._stop_at is None:
            self.signum = int(store.compare_set(STOP, "", str(self.signum)))
            with self._changed:
                self._stop_at = self._asked + 1
            store.set(f"{STOP}-{rank}", str(self._stop_at))
        keys = [f"{STOP}-{each}" for each in range(world_size)]
        if store.check(keys):
            with self._changed:
                self._stop_at, self._is_agreed = max(map(int, store.multi_get(keys))), True
                self._changed.notify()

    def __deepcopy__(self, memo: dict[int, Any]) -> "SignalHandler":
        return self  # one for each process

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            return
        self.signum = signum
        name, second = signal.Signals(signum).name, "signal" if signum in STOP_SIGNALS else "SIGTERM or SIGINT"
        told = f"{name}: stopping after this step; a second {second} ends at once\n" if self.in_loop else ""
        with suppress(OSError):  # of a terminal that is gone
            # Not through logging, which is not reentrant: the signal may have interrupted it. A terminal shows ^C
            os.write(2, f"{chr(10) * os.isatty(2)}{told}".encode())
        if not self.in_loop:
            raise Preempted(signum)

    def _exit_at_second_signal(self, pipe: int) -> None:
        """Ends the process at the second signal, even while its main thread is blocked."""
        first = 0.0
        while number := os.read(pipe, 1):
            now = time.monotonic()
            if first and now - first > REPEAT and number[0] in STOP_SIGNALS:
                os._exit(128 + number[0])
            if number[0] in STOP_SIGNALS:
                first = first or now
        os.close(pipe)
