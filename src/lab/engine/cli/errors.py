"""Ends a command by the kind of its error: a wrong command line, a failed run, or any other error."""

import json
import logging
import signal
import sys
import threading
import traceback
from bdb import BdbQuit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from lab.engine.cli.help import usage
from lab.engine.config.composition_errors import behind
from lab.engine.utils.console import LogFile, log_to_stderr, shown
from lab.engine.utils.environment import set_variables
from lab.engine.utils.errors import RunFailed, UserError, machine_failure
from lab.engine.utils.redaction import COMMAND_LINE, command_line

log = logging.getLogger(__name__)


@contextmanager
def user_errors() -> Iterator[None]:
    """Ends the process with a short message and status 2 for a UserError, status 1 for a RunFailed.

    Any other error shows its whole traceback, and ends with status 1. The run's `train.log` holds the traceback of a
    RunFailed, too, and the last line names it. Secrets of the environment are masked in all of them, and in warnings.
    """
    # Makes Hydra raise errors instead of printing them
    set_variables(HYDRA_FULL_ERROR="1", **{COMMAND_LINE: json.dumps(command_line(sys.argv[1:]))})
    handler, hook = signal.signal(signal.SIGINT, signal.default_int_handler), threading.excepthook
    threading.excepthook = _report_thread
    with log_to_stderr():
        try:
            yield
            sys.stdout.flush()  # else a full disk shows as Python ends, in a traceback
        except (KeyboardInterrupt, BdbQuit):  # before the run installs its signal handlers; `q` at a breakpoint
            sys.exit(128 + signal.SIGINT)
        except Exception as error:
            sys.exit(report(error))
        finally:
            signal.signal(signal.SIGINT, handler)
            threading.excepthook = hook


def script(main: Callable[[list[str]], int | None]) -> None:
    """Runs a script's `main` with the command line's arguments and exits with its status; --help prints its usage."""
    with user_errors():
        status = print(usage(sys.argv[0])) if {"-h", "--help"} & {*sys.argv[1:]} else main(sys.argv[1:])
    sys.exit(status)


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Reports in a line that a thread met a full disk, as TensorBoard's, which tells the main thread, too."""
    if failed.exc_value is not None and machine_failure(failed.exc_value):
        log.warning("%s: %s", failed.thread and failed.thread.name, failed.exc_value)
    else:
        threading.__excepthook__(failed)


def report(error: Exception) -> int:
    """Prints an error on stderr, and returns the exit status."""
    expected = as_expected(error)
    if expected is not None:
        print(shown("\n".join([f"error: {expected}", *getattr(error, "__notes__", [])])), file=sys.stderr)
    else:
        sys.stderr.write(shown("".join(traceback.format_exception(error))))
    if isinstance(expected, UserError):
        return 2
    if (path := log_traceback(error)) is not None:
        cause = "" if expected is not None else f"error: {shown(f'{type(error).__name__}: {error}')}; "
        print(f"{cause}see {path}", file=sys.stderr)
    return 1


def as_expected(error: Exception) -> UserError | RunFailed | None:
    """Returns the error to report in a short message; None for one that shows its traceback."""
    if isinstance(error, UserError | RunFailed):
        return error
    if isinstance(error, HydraException | OmegaConfBaseException):  # may wrap what a constructor or a resolver raised
        return behind(error, UserError) or machine_failure(error)
    return machine_failure(error)


def log_traceback(error: Exception) -> Path | None:
    """Writes a traceback into the log file of the run, and returns that file; None where no run has started."""
    fields = {"name": __name__, "levelno": logging.ERROR, "levelname": "ERROR", "msg": "the run failed"}
    record = logging.makeLogRecord({**fields, "exc_info": (type(error), error, error.__traceback__)})
    for handler in logging.getLogger().handlers:
        path = Path(getattr(handler, "baseFilename", "/"))
        if isinstance(handler, LogFile) or (path.parent / "run.json").exists():
            handler.handle(record)
            return path
    return None
