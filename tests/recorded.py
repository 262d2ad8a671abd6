"""RunRecord runs without the training: directories as `src/train.py` leaves them."""

import json
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lab.engine.config.compose import compose, options


def record(
    directory: Path,
    *words: str,
    status: str = "completed",
    metrics: dict[str, Any] | None = None,
    curves: Mapping[str, Sequence[float]] | None = None,
    **facts: Any,
) -> Path:
    """A run directory.

    Args:
        directory: is made.
        *words: overrides; `seed=…` is the seed.
        status: in `run.json`; None for no such file.
        metrics: `metrics.json`; None for none.
        curves: values by tag, one an epoch of ten steps.
        **facts: more of `run.json`.
    """
    choices = tuple(word for word in words if options(word.partition("=")[0]))
    config = deepcopy(composed(choices))
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if word not in choices:
            put(config, key, OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"])  # type: ignore[index, call-overload]
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    (directory / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(words)))
    begun = {"status": status, "started": f"2026-11-22T08:00:{directory.name[-2:]:>02}"}
    (directory / "run.json").write_text(json.dumps(begun | {"seed": config["seed"]} | facts))
    if metrics is not None:
        (directory / "metrics.json").write_text(json.dumps(metrics))
    if curves:
        draw(directory / "tensorboard", curves)
    return directory


def draw(folder: Path, curves: Mapping[str, Sequence[float]], start: int = 0, session: int | None = None) -> Path:
    """An event file with curves, the first point of each in epoch `start`, that says it begins at the step `session`:
    its path.
    """
    writer = EventFileWriter(str(folder))
    if session is not None:
        writer.add_event(Event(wall_time=time.time(), step=session, session_log=SessionLog(status=SessionLog.START)))
    for tag, values in curves.items():
        for epoch, value in enumerate(values, start):
            for name, number in ((tag, value), ("epoch", epoch)):
                add(writer, name, number, 10 * (epoch + 1) - 1)
    writer.close()
    return max(folder.glob("events*"), key=lambda path: path.stat().st_mtime_ns)


def add(writer: EventFileWriter, tag: str, value: float, step: int) -> None:
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


@cache
def composed(choices: tuple[str, ...]) -> dict[str, Any]:
    config: Any = OmegaConf.to_container(compose(choices), resolve=False)
    return config


def put(config: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for name in path:
        config = config.setdefault(name, {})
    config[last] = value
