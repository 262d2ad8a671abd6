"""Defines the errors that end a command."""

import signal


class UserError(ValueError):
    """Reports a user's mistake: what is wrong, where, and the remedy; no traceback, exit status 2."""


class RunFailed(Exception):
    """Reports a failure of the machine or the data: cause, path, remedy; no traceback, exit status 1."""


class Preempted(SystemExit):
    """Ends a run that a signal stopped, with the exit status that shells use: 128 plus the signal's number."""

    def __init__(self, signum: int) -> None:
        self.signal = signal.Signals(signum)
        is_warning = signum not in (signal.SIGTERM, signal.SIGINT)  # of a queue, that SIGTERM will come
        super().__init__(128 + (signal.SIGTERM if is_warning else signum))

    def __reduce__(self) -> tuple[type["Preempted"], tuple[int]]:  # a launcher's worker may pickle it
        return Preempted, (int(self.signal),)
