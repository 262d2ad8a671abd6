"""Where log lines and warnings go, and what does not go with them."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from lab.engine.utils.redaction import redact

# Lines of Lightning's log that the console leaves out: advertisements, what our own log says, and that trainer.max_time
# is ignored beside a Timer, though callbacks.timer reads it
HIDDEN_LINES = (
    "💡",
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "Ignoring `Trainer(max_time=",
)
WARNINGS = logging.getLogger("py.warnings")  # where `logging.captureWarnings` sends them


class Redact(logging.Filter):
    """Takes the environment's secrets out of every line, tracebacks included; no line is dropped."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()).rstrip("\n"), None  # a warning ends with an empty line
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        # a formatter takes what stands in exc_text for the traceback, and does not write it anew
        record.exc_text, record.stack_info = redact(record.exc_text), redact(record.stack_info)
        return True


class Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever `sys.stdout` is when the line comes, so that lines pass above a live progress bar.

    Args:
        stream: stdout or stderr. Warnings go to stderr alone.
    """

    def __init__(self, stream: str = "stdout") -> None:
        logging.Handler.__init__(self)
        self.name_of_stream = stream
        self.addFilter(lambda record: not str(record.msg).startswith(HIDDEN_LINES))
        self.addFilter(lambda record: stream == "stderr" or record.name != WARNINGS.name)
        self.addFilter(Redact())

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr if self.name_of_stream == "stderr" else sys.stdout


def log_warnings() -> None:
    """Sends warnings through logging: to stderr, and into `train.log` where there is one; secrets masked."""
    ignore_known_warnings()
    logging.captureWarnings(True)
    if not any(isinstance(handler, Console) for handler in WARNINGS.handlers):
        WARNINGS.addHandler(Console("stderr"))


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Logs to stderr until somebody configures logging, warnings included; secrets masked."""
    handler = Console("stderr")
    handler.addFilter(lambda record: record.name != WARNINGS.name)  # it has a handler of its own
    logging.getLogger().addHandler(handler)
    log_warnings()
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)


def ignore_known_warnings() -> None:
    """Silences warnings that nobody can act on; every other one stays."""
    # Our presets of launchers bear the names of those that the plugins bring, which serve as their schemas.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    # Lightning 2.6 and torch 2.15 disagree on the name of a check.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*", category=FutureWarning)
    # A run on a machine that has Slurm need not be one of its jobs.
    warnings.filterwarnings("ignore", message=r"The `srun` command is available on your system but is not used")
    # The training curve is logged for epochs however short.
    warnings.filterwarnings("ignore", message=r"The number of training batches .* is smaller than the logging interval")


def quiet() -> None:
    """Keeps what Lightning has to say of itself from a script's output; its warnings stay."""
    ignore_known_warnings()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
