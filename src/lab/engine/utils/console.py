"""Where log lines go, and what does not go with them."""

import logging
import sys
import warnings
from typing import TextIO

from lab.engine.utils.redaction import redact

# Lightning advertises services in its log, one line each, and tells of a checkpoint before and after
SAID_ALREADY = ("💡", "Restoring states from the checkpoint", "Restored all states from the checkpoint")


class Redact(logging.Filter):
    """Takes the environment's secrets out of every line, tracebacks included; no line is dropped."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        # a formatter takes what stands in exc_text for the traceback, and does not write it anew
        record.exc_text, record.stack_info = redact(record.exc_text), redact(record.stack_info)
        return True


class Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever `sys.stdout` is when the line comes, so that lines pass above a live progress bar."""

    def __init__(self, stream: None = None) -> None:
        logging.Handler.__init__(self)
        self.addFilter(lambda record: not str(record.msg).startswith(SAID_ALREADY))
        self.addFilter(Redact())

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout


def ignore_known_warnings() -> None:
    """Silences warnings that nobody can act on; every other one stays."""
    # Lightning 2.6 and torch 2.15 disagree on the name of a check.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*", category=FutureWarning)
    # A run on a machine that has Slurm need not be one of its jobs.
    warnings.filterwarnings("ignore", message=r"The `srun` command is available on your system but is not used")
    # Meter logs the training curve of epochs however short.
    warnings.filterwarnings("ignore", message=r"The number of training batches .* is smaller than the logging interval")


def quiet() -> None:
    """Keeps what Lightning has to say of itself from a script's output; its warnings stay."""
    ignore_known_warnings()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
