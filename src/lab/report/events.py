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

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

LENGTH = Struct("<Q")
HEAD, FOOT = 12, 4  # bytes around a message
LARGEST = 4096  # bytes; no scalar's message comes near it, pictures and texts are beyond


@dataclass
class Curve:
    """One scalar over a run.

    Args:
        steps: (N,), ascending, each once.
        values: (N,).
        epochs: (N,), the epoch in which each was logged, from 1; -1 where that is not known.
    """

    steps: "np.ndarray[Any, np.dtype[np.int64]]"
    values: "np.ndarray[Any, np.dtype[np.float64]]"
    epochs: "np.ndarray[Any, np.dtype[np.int64]]"


def read_curves(folder: Path) -> dict[str, Curve]:
    """Every scalar under `folder` by its tag; none where there are no event files.

    A run that went on has several files. Each says at which step it begins, and what an earlier one drew from there on
    was lost with the process that drew it.
    """
    points: dict[str, dict[int, float]] = {}  # tag -> step -> value
    for path in sorted(folder.glob("events.out.tfevents.*"), key=_age):
        _read(path.read_bytes(), points)
    epochs = points.get("epoch", {})
    curves = {}
    for tag, found in points.items():
        steps = sorted(found)
        curves[tag] = Curve(
            np.array(steps, dtype=np.int64),
            np.array([found[step] for step in steps], dtype=np.float64),
            np.array([epochs.get(step, -2) + 1 for step in steps], dtype=np.int64),
        )
    return curves


def _read(content: bytes, points: dict[str, dict[int, float]]) -> None:
    """Adds the scalars of one file to `points`."""
    at, end, event = 0, len(content), Event()
    while at + HEAD <= end:
        (length,) = LENGTH.unpack_from(content, at)
        start, at = at + HEAD, at + HEAD + length + FOOT
        if not length or at > end:  # half-written, or damaged
            return
        if length > LARGEST:
            continue
        try:
            event.ParseFromString(content[start : start + length])
        except DecodeError:
            return
        if event.session_log.status == SessionLog.START:
            for found in points.values():
                for step in [step for step in found if step >= event.step]:
                    del found[step]
        for value in event.summary.value:
            if value.HasField("simple_value"):
                points.setdefault(value.tag, {})[event.step] = value.simple_value
            elif value.tensor.float_val:  # as TensorFlow's writers put it
                points.setdefault(value.tag, {})[event.step] = value.tensor.float_val[0]


def _age(path: Path) -> tuple[int, ...]:
    """The time of its start, and its number in that process."""
    numbers = re.findall(r"\.(\d+)", path.name)
    return tuple(int(number) for number in (*numbers[:1], *numbers[-1:]))
