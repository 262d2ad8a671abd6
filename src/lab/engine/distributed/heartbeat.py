"""Describes the progress of each rank, and detects from it which rank failed."""

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from lab.engine.utils.processes import is_alive, pid_namespace

SILENCE = 15.0  # seconds without a heartbeat after which a rank counts as dead
KILLED = "its process was killed"
LAST_WORDS = 1.0  # seconds in which a rank that has left must have been heard to say so


def failed_first(rank: int, how: str = "", host: str = "") -> str:
    """Returns why a run ends: the rank that failed, its host (by default this machine), and how if that is known."""
    return f"rank {rank} on {host or socket.gethostname()} failed first{how and ': '}{how}"


@dataclass(frozen=True)
class Heartbeat:
    """Holds the progress that a rank reports.

    Args:
        number: of this heartbeat, counted from the start.
        host: name of the rank's machine.
        namespace: that its process is numbered in.
        pid: number of its process there.
        batches: finished by the rank, of any stage.
        position: file, line and function of our code that the rank's main thread is in.
        waiting: whether it waits there for other ranks.
        done: whether the rank has left the run.
    """

    number: int
    host: str = ""
    namespace: int = 0
    pid: int = 0
    batches: int = 0
    position: str = ""
    waiting: bool = False
    done: bool = False

    @classmethod
    def of(cls, thread: int, number: int, batches: int) -> "Heartbeat":
        """Returns the heartbeat of this process, which trains in `thread`."""
        frame = sys._current_frames().get(thread)
        position, waiting = "", False
        while frame is not None:
            file = frame.f_code.co_filename
            waiting |= f"torch{os.sep}distributed" in file or f"torch{os.sep}autograd" in file
            if not position and "site-packages" not in file:
                position = f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"
            frame = frame.f_back
        return cls(number, socket.gethostname(), pid_namespace(), os.getpid(), batches, position, waiting)

    def is_gone(self) -> bool:
        """Returns whether the rank's process has ended on this machine; of a rank elsewhere that is not known."""
        is_here = (self.host, self.namespace) == (socket.gethostname(), pid_namespace())
        return is_here and not is_alive(self.pid)


@dataclass(frozen=True)
class Pulse:
    """Holds the last heartbeat of a rank, when it arrived, and when the rank last finished a batch."""

    beat: Heartbeat
    arrived: float
    progressed: float

    def next(self, beat: Heartbeat, now: float) -> "Pulse":
        """Returns the pulse after reading `beat` at time `now`; it may be the heartbeat that was read before."""
        arrived = now if beat.number != self.beat.number else self.arrived
        return Pulse(beat, arrived, now if beat.batches != self.beat.batches else self.progressed)

    def loss(self, now: float) -> str | None:
        """Returns how the rank was lost; None while it is there."""
        silent = now - self.arrived
        if silent > LAST_WORDS and self.beat.is_gone():
            return KILLED
        return f"no heartbeat for {SILENCE:.0f} s" if silent > SILENCE else None


def detect_failure(pulses: Mapping[int, Pulse], now: float, timeout: float) -> str | None:
    """Returns which rank has failed, and how; None while all are well.

    A rank has failed when its process is gone, or it sent no heartbeat for 15 s. When no rank has finished a batch for
    `timeout` seconds, counted from the first batch on, the rank that does not wait for others has failed.
    """
    for rank, pulse in pulses.items():
        if not pulse.beat.done and (how := pulse.loss(now)):
            return failed_first(rank, how, pulse.beat.host)
    beats = {rank: pulse.beat for rank, pulse in sorted(pulses.items())}
    progressed = max((pulse.progressed for pulse in pulses.values()), default=now)
    if now - progressed <= timeout or not any(beat.batches for beat in beats.values()):
        return None
    stuck = [rank for rank, beat in beats.items() if not beat.waiting]
    positions = "; ".join(f"rank {rank} at {beats[rank].position}" for rank in stuck or beats)
    how = f"has made no progress for {timeout:.0f} s ({positions})"
    if not stuck:
        return f"deadlock, the ranks wait for each other: none {how}"
    return failed_first(stuck[0], f"it {how}", beats[stuck[0]].host)
