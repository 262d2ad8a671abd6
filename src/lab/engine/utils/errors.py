"""Defines the errors that end a command."""

import errno
import signal
from pathlib import Path
from shlex import quote

# A full disk, a quota, `ulimit -f`, a disk that is read-only; `ulimit -n`, for this process or the machine
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
# That ask a process to stop: the terminal's Ctrl-C and its end, and `kill`
STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class UserError(ValueError):
    """Reports a user's mistake: what is wrong, where, and the remedy; no traceback, exit status 2."""


class RunFailed(Exception):
    """Reports a failure of the machine or the data: cause, path, remedy; no traceback, exit status 1."""


class Preempted(SystemExit):
    """Ends a run that a signal stopped, with the exit status that shells use: 128 plus the signal's number."""

    def __init__(self, signum: int) -> None:
        self.signal = signal.Signals(signum)
        is_warning = signum not in STOP_SIGNALS  # of a queue, that SIGTERM will come
        super().__init__(128 + (signal.SIGTERM if is_warning else signum))

    def __reduce__(self) -> tuple[type["Preempted"], tuple[int]]:  # a launcher's worker may pickle it
        return Preempted, (int(self.signal),)


def machine_failure(error: BaseException, run: Path | None = None) -> RunFailed | None:
    """Returns the error to report where the machine has no room or no more files to open; None for any other error.

    Args:
        error: one of the system, or one that a library raised while it handled such a one.
        run: directory of the run, which the message says how to resume.
    """
    cause: BaseException | None = error
    if isinstance(error, UserError | RunFailed | SystemExit):
        return None
    while cause is not None and not (isinstance(cause, OSError) and cause.errno in NO_SPACE + TOO_MANY_FILES):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    lines = [f"{cause.filename or 'writing'}: {cause.strerror}"]
    if cause.errno in NO_SPACE:
        lines.append("make room, or choose another paths.log_dir (runs) or paths.data_dir (datasets)")
    else:
        lines.append("raise the limit of open files: ulimit -n 4096; or take fewer data.num_workers")
    if run is not None and (run / "checkpoints" / "last.ckpt").is_file():
        lines.append(f"and resume: python src/train.py resume={quote(str(run))}")
    return RunFailed("\n".join(lines))
