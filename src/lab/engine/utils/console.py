"""Sends log lines and warnings to the console, with secrets masked and known noise left out."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from lab.engine.utils.escape import printable
from lab.engine.utils.redaction import redact

# Lines of Lightning's log that the console leaves out: advertisements, what our own log says, that a schedule asks for
# its number of steps, and that trainer.max_time is ignored beside a Timer, though callbacks.timer reads it
HIDDEN_LINES = (
    "💡",
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "Loading `train_dataloader` to estimate",
    "Ignoring `Trainer(max_time=",
)
WARNINGS = logging.getLogger("py.warnings")  # the logger of `logging.captureWarnings`


def shown(text: str) -> str:
    """Returns a text as a terminal and a log may show it: secrets masked, control characters escaped."""
    return printable(redact(text))


class Redact(logging.Filter):
    """Masks the environment's secrets in every line, tracebacks included, and escapes control characters."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = shown(record.getMessage()).rstrip("\n"), None  # a warning ends with an empty line
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        # A formatter uses exc_text if it is set, instead of formatting the traceback again
        record.exc_text = record.exc_text and shown(record.exc_text)
        record.stack_info = record.stack_info and shown(record.stack_info)
        return True


def mask_handlers(logger: logging.Logger) -> None:
    """Masks secrets in what the handlers of a logger write, whoever configured them: hydra/job_logging=stdout, too."""
    for handler in logger.handlers:
        if not any(isinstance(one, Redact) for one in handler.filters):
            handler.addFilter(Redact())


class OneWarning(logging.Handler):
    """Says in one line that lines cannot be written, instead of a traceback for each: a run goes on without its log."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # a mistake in the call
            super().handleError(record)
        elif not self.failed and sys.stderr:
            self.failed = True
            file = getattr(self, "baseFilename", error.filename)
            print(f"warning: {file}: {error.strerror}: lines of the log are missing there", file=sys.stderr)


class LogFile(OneWarning, logging.FileHandler):
    """Writes the log of a run."""


class Console(OneWarning, logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the present `sys.stdout`, which a live progress bar replaces to print lines above itself.

    Args:
        stream: stdout or stderr. Only stderr shows warnings.
    """

    def __init__(self, stream: str = "stdout") -> None:
        logging.Handler.__init__(self)
        self.stream_name = stream
        self.addFilter(lambda record: not str(record.msg).startswith(HIDDEN_LINES))
        self.addFilter(lambda record: stream == "stderr" or record.name != WARNINGS.name)
        self.addFilter(Redact())

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr if self.stream_name == "stderr" else sys.stdout


def log_warnings() -> None:
    """Sends warnings through logging, to stderr and to `train.log` if there is one, with secrets masked."""
    ignore_known_warnings()
    logging.captureWarnings(True)
    if not any(isinstance(handler, Console) for handler in WARNINGS.handlers):
        WARNINGS.addHandler(Console("stderr"))


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Logs to stderr until logging is configured, warnings included, with secrets masked."""
    handler = Console("stderr")
    handler.addFilter(lambda record: record.name != WARNINGS.name)  # warnings have a handler of their own
    logging.getLogger().addHandler(handler)
    log_warnings()
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)


def ignore_known_warnings() -> None:
    """Ignores warnings that nobody can act on."""
    # Our launcher configs have the names of the plugins' own, which serve as their schemas
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    # Lightning 2.6 uses a check that torch 2.15 has deprecated
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*", category=FutureWarning)
    # A run on a machine with Slurm need not be one of its jobs
    warnings.filterwarnings("ignore", message=r"The `srun` command is available on your system but is not used")
    # TrainMetrics logs epochs that are shorter than the interval too
    warnings.filterwarnings("ignore", message=r"The number of training batches .* is smaller than the logging interval")
    # trainer.profiler=pytorch reports the last cycle, which is what Lightning's documentation says
    warnings.filterwarnings("ignore", message=r"Warning: Profiler clears events at the end of each cycle")


def quiet() -> None:
    """Hides Lightning's info lines from a script's output; its warnings stay."""
    ignore_known_warnings()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
