"""Asks Linux to kill this process when it has been stopped or has hung for too long: nobody else can on its machine."""

import ctypes
import signal
import sys

CLOCK_MONOTONIC = 1


class Deadline:
    """Kills this process `seconds` after the last `extend`, even while it is stopped; a no-op outside of Linux.

    The kernel's timer sends the signal, see timer_create(2): a stopped process reacts to SIGKILL alone.

    Args:
        seconds: between one `extend` and the kill.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._timer = ctypes.c_void_p()
        event = _Event(signo=signal.SIGKILL)
        if self._libc is None or self._libc.timer_create(
            CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)
        ):
            self._libc = None  # a kernel without timers

    def extend(self) -> None:
        """Starts the time anew."""
        if self._libc is not None:
            times = _Times(seconds=int(self._seconds), nanoseconds=int(self._seconds % 1 * 1e9))
            self._libc.timer_settime(self._timer, 0, ctypes.byref(times), None)

    def cancel(self) -> None:
        """Lets the process live."""
        if self._libc is not None:
            self._libc.timer_delete(self._timer)
            self._libc = None


class _Event(ctypes.Structure):
    """Mirrors `struct sigevent`, of 64 bytes; `notify` 0 stands for SIGEV_SIGNAL."""

    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    ]


class _Times(ctypes.Structure):
    """Mirrors `struct itimerspec`: a period, zero here, and the time to the first signal."""

    _fields_ = [
        ("period_seconds", ctypes.c_long),
        ("period_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    ]
