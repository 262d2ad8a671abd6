"""Stopping without losing anything: a signal ends a run between two batches, with a checkpoint."""

import logging
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import distributed

from lab.engine.utils.errors import Preempted

log = logging.getLogger(__name__)

SIGNALS = [signal.SIGTERM, signal.SIGINT]
# Slurm's warning before the end of the time: Lightning's users ask for the first, submitit for the second.
SLURM_SIGNALS = [signal.SIGUSR1, signal.SIGUSR2] if hasattr(signal, "SIGUSR1") else []


class SignalHandler:
    """Listens to signals while a run is at work.

    The first one asks the training loop to stop: the loop finishes the step, or the validation that it is in, saves,
    and raises `Preempted`. Outside of the loop there is nothing to save, and `Preempted` is raised at once. The second
    signal ends the process where it stands. Slurm's warning does not count: the SIGTERM that it announces may come
    while the run is still being saved, and only one more ends it there.

    With several ranks any one of them may be told. What each was told is summed while the next batch is worked on, so
    that all stop after the same batch; waiting for the sum would cost each step as much as it takes to go round.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.in_loop = False
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._group: Any = None
        self._told: Any = None  # a sum that is under way, and its value

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():  # others cannot listen
            queued = "SLURM_JOB_ID" in os.environ or os.environ.get("SUBMITIT_EXECUTOR") == "local"
            slurm = SLURM_SIGNALS if queued else []
            self._previous = {signum: signal.signal(signum, self._hear) for signum in [*SIGNALS, *slurm]}
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._previous_pipe = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            threading.Thread(target=self._leave_at_the_second, args=[self._pipe[0]], daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._previous_pipe)
            os.close(self._pipe[1])  # the thread reads its end, and ends

    def asked(self) -> int:
        """The signal that some rank was sent, 0 for none; the same on every rank. To be called between batches."""
        if not distributed.is_initialized() or distributed.get_world_size() == 1:
            return self.signum
        if self._group is None:  # of its own, on the CPU: it must not wait for gradients, nor they for it
            self._group = distributed.new_group(backend="gloo")
        if self._told is not None:
            work, value = self._told
            work.wait()
            self._told = None
            if value.item():
                return int(value.item())
        value = torch.tensor(self.signum)
        self._told = distributed.all_reduce(value, distributed.ReduceOp.MAX, group=self._group, async_op=True), value
        return 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "SignalHandler":
        return self  # there is one for each process

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            return
        self.signum = signum
        if not self.in_loop:
            raise Preempted(signum)
        # Not through the log, which may be in the middle of a line
        name, more = signal.Signals(signum).name, "second signal" if signum in SIGNALS else "second SIGTERM or SIGINT"
        os.write(2, f"{name}: stopping after this step; a {more} ends at once\n".encode())

    def _leave_at_the_second(self, pipe: int) -> None:
        """Ends the process at the second signal, though its main thread be deep in something that hears none."""
        heard = 0
        while number := os.read(pipe, 1):
            heard += number[0] in SIGNALS
            if heard == 2:
                os._exit(128 + number[0])
        os.close(pipe)
