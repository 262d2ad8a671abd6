"""Reads the scalars of TensorBoard's event files.

A file is a row of records: the length in 8 bytes, its checksum in 4, the message (`Event` of tensorboard), its checksum
in 4. TensorBoard's own readers compute the checksums in Python: 200 runs of 1,070 points each take `EventAccumulator`
4.5 s and `RawEventFileLoader` 3.9 s, of the 5 s that a whole report may take. Without checksums it is 0.5 s.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from struct import unpack_from
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

HEAD, FOOT = 12, 4  # bytes around a message
LARGEST = 4096  # bytes; no scalar's message comes near it, pictures and texts are beyond

Points = dict[int, float]  # value by step


@dataclass(frozen=True)
class Curve:
    """One scalar over a run.

    Args:
        steps: (N,), ascending, each once.
        values: (N,).
        epochs: (N,), the epoch in which each was logged, from 1; 0 where that is not known.
    """

    steps: list[int]
    values: list[float]
    epochs: list[int]


def read_points(folder: Path) -> dict[str, Points]:
    """Returns every scalar under `folder` by its tag; none where there are no event files.

    A resumed run has several files. Each says at which step it begins, and what an earlier one logged from there on
    was lost with the process that logged it.
    """
    points: dict[str, Points] = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=_age):
        _read(path.read_bytes(), points)
    return points


def curve(points: dict[str, Points], tag: str) -> Curve:
    """Returns the scalar `tag` in order, with the epochs that Lightning logged at the same steps."""
    steps, epochs = sorted(points[tag]), points.get("epoch", {})
    return Curve(steps, [points[tag][step] for step in steps], [int(epochs.get(step, -1)) + 1 for step in steps])


def _read(content: bytes, points: dict[str, Points]) -> None:
    """Adds the scalars of one file to `points`, up to a record that is half-written or damaged."""
    at = 0
    while at + HEAD <= len(content):
        (length,) = unpack_from("<Q", content, at)
        start, end = at + HEAD, at + HEAD + length
        at = end + FOOT
        if not length or at > len(content):
            return
        if length > LARGEST:
            continue
        try:
            event = Event.FromString(content[start:end])
        except DecodeError:
            return
        if event.session_log.status == SessionLog.START:
            for found in points.values():
                for late in [step for step in found if step >= event.step]:
                    del found[late]
        for value in event.summary.value:
            number = [value.simple_value] if value.HasField("simple_value") else _numbers(value.tensor)
            if number:
                points.setdefault(value.tag, {})[event.step] = number[0]


def _numbers(tensor: Any) -> Any:
    """Returns the number in a tensor that holds but one, as newer writers put scalars."""
    return [] if tensor.tensor_shape.dim else tensor.float_val or tensor.double_val


def _age(path: Path) -> tuple[int, ...]:
    """Returns the time of a file's start, and its number in that process."""
    numbers = re.findall(r"\.(\d+)", path.name)
    return tuple(int(number) for number in (*numbers[:1], *numbers[-1:]))
