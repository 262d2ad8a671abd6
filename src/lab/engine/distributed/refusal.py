"""Ends the ranks of a run together when one of them is refused."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lab.engine.utils.processes import world_size


@contextmanager
def refused_together() -> Iterator[None]:
    """Tells the other ranks of this run of an error, for which they end, too; they wait for this rank.

    Raises:
        SystemExit: in place of the error, where rank 0 has told the user of it.
    """
    try:
        yield
    except Exception as error:
        if (ranks := world_size()) > 1:
            from lab.engine.distributed.rendezvous import end_together  # torch loads here

            if end_together(error, ranks):
                sys.exit(1)
        raise
