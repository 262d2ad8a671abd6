"""Says how far each rank has come, and tells from that which one has failed."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

SILENCE = 15.0  # seconds without a heartbeat after which a process is taken for dead


@dataclass(frozen=True)
class Heartbeat:
    """What a rank says of itself.

    Args:
        number: counts heartbeats.
        batches: that it has finished, of any kind.
        position: file, line and function of ours in which its main thread is.
        waiting: whether it waits there for other ranks.
        done: whether it has left the run.
    """

    number: int
    batches: int = 0
    position: str = ""
    waiting: bool = False
    done: bool = False

    @classmethod
    def of(cls, thread: int, number: int, batches: int, done: bool = False) -> "Heartbeat":
        """Takes the heartbeat of this process, whose training is done by `thread`."""
        frame = sys._current_frames().get(thread)
        position, waiting = "", False
        while frame is not None:
            file = frame.f_code.co_filename
            waiting |= f"torch{os.sep}distributed" in file or f"torch{os.sep}autograd" in file
            if not position and "site-packages" not in file:
                position = f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"
            frame = frame.f_back
        return cls(number, batches, position, waiting, done)


@dataclass(frozen=True)
class Pulse:
    """The last heartbeat of a rank, with the times when it came and when the rank last finished a batch."""

    beat: Heartbeat
    heard: float
    moved: float

    def next(self, beat: Heartbeat, now: float) -> "Pulse":
        """Takes in what the rank says `now`, which may be what it said before."""
        heard = now if beat.number != self.beat.number else self.heard
        return Pulse(beat, heard, now if beat.batches != self.beat.batches else self.moved)


def detect_failure(pulses: Mapping[int, Pulse], now: float, timeout: float) -> str | None:
    """Names the rank that has failed; None where all are well.

    A rank is dead when nothing has been heard of it for 15 s. When no rank has finished a batch for `timeout` seconds,
    from the first one on, the one that waits for nobody is to blame.
    """
    for rank, pulse in pulses.items():
        if now - pulse.heard > SILENCE and not pulse.beat.done:
            return f"rank {rank} failed first: nothing has been heard of it for {SILENCE:.0f} s"
    beats = {rank: pulse.beat for rank, pulse in sorted(pulses.items())}
    moved = max((pulse.moved for pulse in pulses.values()), default=now)
    if now - moved <= timeout or not any(beat.batches for beat in beats.values()):
        return None
    idle = [rank for rank, beat in beats.items() if not beat.waiting]
    who = f"rank {idle[0]} failed first: it" if idle else "the ranks wait for each other: none"
    positions = "; ".join(f"rank {rank} at {beats[rank].position}" for rank in idle or beats)
    return f"{who} has not come further for {timeout:.0f} s ({positions})"
