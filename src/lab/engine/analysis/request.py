"""What `scripts/compare.py` is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

KNOWN = ("baseline", "metric", "mode", "out")


@dataclass(frozen=True)
class Request:
    """The words of a command line, taken apart.

    Args:
        places: where runs are.
        baseline: see `lab.engine.analysis.comparison.compare`, and so for `metric` and `mode`.
        metric: see there.
        mode: see there.
        out: a folder to write to, or None.
    """

    places: list[str]
    baseline: str | None = None
    metric: str | None = None
    mode: str | None = None
    out: Path | None = None


def read_request(words: Sequence[str]) -> Request:
    """Takes the words apart: a word is a place where one is there, or where it holds no `=`.

    Raises:
        UserError: for an argument that is none, with the nearest, and a folder that cannot be written to.
    """
    places, own = [], dict[str, str]()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or Path(word).exists():
            places.append(word)
        elif name not in KNOWN:
            raise UserError(f"{name}: no such argument{nearest(name, KNOWN)}\nit takes: {', '.join(KNOWN)}")
        elif not value:
            raise UserError(f"{word}: give a value")
        else:
            own[name] = value
    out = Path(own.pop("out")) if "out" in own else None
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file: give a folder")
    return Request(places, out=out, **own)
