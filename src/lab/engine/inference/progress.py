"""A progress bar for scripts."""

import sys
from collections.abc import Iterable, Iterator
from threading import Lock, Timer
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


class Bar:
    """A bar on a terminal's error output, for work that takes longer than a second; elsewhere nothing.

    Args:
        what: is done, in a word.
        total: steps; None where that is not known yet.
        delay: seconds before it shows.
        console: to draw on.
    """

    def __init__(self, what: str, total: int | None, delay: float = 1.0, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(TextColumn("{task.description}"), *columns, console=self._console, transient=True)
        self._task = self._progress.add_task(what, total=total)
        self._timer = Timer(delay, self._show)
        self._timer.daemon = True
        self._lock = Lock()
        self._over = False

    def __enter__(self) -> "Bar":
        if self._console.is_terminal:
            self._timer.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._timer.cancel()
        with self._lock:
            self._over = True
            if self._progress.live.is_started:
                self._progress.stop()

    def advance(self, total: int | None = None) -> None:
        """One step more; `total` where it is known by now."""
        self._progress.update(self._task, advance=1, total=total)

    def _show(self) -> None:
        with self._lock:
            if not self._over:
                self._progress.start()


def track(steps: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    """Goes through `steps` with a bar."""
    with Bar(what, total) as bar:
        for step in steps:
            yield step
            bar.advance()
