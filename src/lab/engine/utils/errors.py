"""How a command ends before its time."""

import signal


class UserError(ValueError):
    """What is wrong, where, what was expected; a few lines, no traceback. The command ends with exit status 2."""


class RunFailed(Exception):
    """A run that cannot go on, with its cause; a few lines. The command ends with exit status 1."""


class Preempted(SystemExit):
    """The end of a run that a signal asked for; the process ends with 128 and the signal's number, as shells count."""

    def __init__(self, signum: int) -> None:
        self.signal = signal.Signals(signum)
        told = signum in (signal.SIGTERM, signal.SIGINT)  # any other is a warning that SIGTERM will come
        super().__init__(128 + (signum if told else signal.SIGTERM))

    def __reduce__(self) -> tuple[type["Preempted"], tuple[int]]:  # it may come out of a launcher's worker
        return Preempted, (int(self.signal),)
