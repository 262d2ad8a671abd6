"""Makes a process's streams fit to write to, whatever started it. Each entry point calls `start` first."""

import codecs
import errno
import io
import locale
import os
import signal
import stat
import sys
from typing import Any

from lab.engine.utils.environment import set_defaults, set_variables


class Stream(io.FileIO):
    """Writes to a standard stream until that fails; from then on it drops what is written.

    A reader that has gone, as `head` does, ends no run and is no error. Any other failure is raised, once.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            hung_up = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)  # the terminal is gone
            _open_null(self.fileno())
            if hung_up or isinstance(error, BrokenPipeError):
                return len(data)
            raise OSError(error.errno, error.strerror, "stdout" if self.fileno() == 1 else "stderr") from None


def start() -> None:
    """Prepares stdin, stdout and stderr, and lets Ctrl-C end the process at once until `user_errors` handles it.

    - A closed stream becomes the null device: the next file that is opened would take its number, and what C code
      prints.
    - Characters that a stream cannot encode are written as escapes.
    - In a locale other than UTF-8 Python starts again in its UTF-8 mode, since configs, tables and logs are UTF-8; the
      streams keep the encoding of the locale.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    encoding = codecs.lookup(locale.getencoding()).name
    if os.name == "posix" and encoding != "utf-8" and not sys.flags.utf8_mode and os.environ.get("PYTHONUTF8") != "1":
        set_variables(PYTHONUTF8="1")
        set_defaults(PYTHONIOENCODING=encoding)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if sys.stdin is None:
        _open_null(0)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    if sys.stdout is sys.__stdout__:  # else whoever runs this file in a process of theirs reads it
        sys.stdout = _writer(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _writer(sys.stderr, 2)


def _writer(stream: Any, number: int) -> io.TextIOWrapper:
    """Returns a text stream for a descriptor, with the encoding of `stream`; that is None where it was closed."""
    if stream is None:
        _open_null(number)
    file = io.BufferedWriter(Stream(number, "w", closefd=False))
    encoding = "utf-8" if stream is None else stream.encoding
    by_line = stream is None or stream.line_buffering or stream.write_through
    return io.TextIOWrapper(file, encoding, "backslashreplace", line_buffering=by_line)


def _open_null(number: int) -> None:
    """Makes the descriptor `number` one of the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    os.set_inheritable(number, True)
