"""TensorBoard's event files, scalars only.

A file is a row of records: the length in 8 bytes, its checksum in 4, the message (`Event` of tensorboard), its checksum
in 4. Checksums are passed over, since in Python they would cost more than all the rest; a record that does not fit, or
that is no event, ends the file there, as does the end of a file that is still being written.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

LENGTH, SINGLE = Struct("<Q"), Struct("<f")
HEAD, FOOT = 12, 4  # bytes around a message
LARGEST = 4096  # bytes; no scalar's message comes near it, pictures and texts are beyond
WALL_TIME, STEP = 0x09, 0x10  # the first bytes of an event's first two fields
AFTER_TIME = 9  # bytes

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
    """Every scalar under `folder` by its tag; none where there are no event files.

    A run that went on has several files. Each says at which step it begins, and what an earlier one drew from there on
    was lost with the process that drew it.
    """
    points: dict[str, Points] = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=_age):
        _read(path.read_bytes(), points)
    return points


def curve(points: dict[str, Points], tag: str) -> Curve:
    """The scalar `tag` in order, with the epochs that Lightning logged at the same steps."""
    found, epochs = points[tag], points.get("epoch", {})
    steps = sorted(found)
    return Curve(steps, [found[step] for step in steps], [int(epochs.get(step, -1)) + 1 for step in steps])


def _read(content: bytes, points: dict[str, Points]) -> None:
    """Adds the scalars of one file to `points`.

    Protobuf takes apart the first event of each tag. The bytes between its step and its value are the same in all that
    follow, which are known by them: that takes a third of the time.
    """
    at, end, event = 0, len(content), Event()
    known: dict[bytes, Points] = {}
    while at + HEAD <= end:
        (length,) = LENGTH.unpack_from(content, at)
        start, at = at + HEAD, at + HEAD + length + FOOT
        if not length or at > end:  # half-written, or damaged
            return
        if length > LARGEST:
            continue
        last = at - FOOT - SINGLE.size  # where a scalar's value is
        step, after = _step(content, start, last)
        head = content[after:last]
        if head in known:
            (known[head][step],) = SINGLE.unpack_from(content, last)
            continue
        try:
            event.ParseFromString(content[start : at - FOOT])
        except DecodeError:
            return
        if event.session_log.status == SessionLog.START:
            for found in points.values():
                for late in [late for late in found if late >= event.step]:
                    del found[late]
        values = event.summary.value
        for value in values:
            number = [value.simple_value] if value.HasField("simple_value") else _numbers(value.tensor)
            if number:
                points.setdefault(value.tag, {})[event.step] = number[0]
        if len(values) == 1 and step == event.step and _ends_plainly(head, values[0].tag):
            known[head] = points[values[0].tag]


def _numbers(tensor: Any) -> Any:
    """The number in a tensor that holds but one, as newer writers put scalars."""
    return [] if tensor.tensor_shape.dim else tensor.float_val or tensor.double_val


def _step(content: bytes, start: int, end: int) -> tuple[int, int]:
    """The step of the event at `start`, and where it ends; -1 where the event does not begin as most do."""
    at = start + AFTER_TIME
    if end <= at or content[start] != WALL_TIME or content[at] != STEP:
        return -1, end
    step = shift = 0
    while (at := at + 1) < end:
        byte = content[at]
        step |= (byte & 127) << shift
        if byte < 128:
            return step, at + 1
        shift += 7
    return -1, end


def _ends_plainly(head: bytes, tag: str) -> bool:
    """Whether what lies between step and value is a summary of one tag and the first byte of a `simple_value`."""
    name = tag.encode()
    return len(name) < 100 and head == bytes((0x2A, len(name) + 9, 0x0A, len(name) + 7, 0x0A, len(name), *name, 0x15))


def _age(path: Path) -> tuple[int, ...]:
    """The time of its start, and its number in that process."""
    numbers = re.findall(r"\.(\d+)", path.name)
    return tuple(int(number) for number in (*numbers[:1], *numbers[-1:]))
