"""Where log lines go."""

import logging
import sys
from typing import TextIO


class Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever `sys.stdout` is when the line comes, so that lines pass above a live progress bar."""

    def __init__(self, stream: None = None) -> None:
        logging.Handler.__init__(self)
        # Lightning advertises services in its log, one line each
        self.addFilter(lambda record: not str(record.msg).startswith("💡"))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout
