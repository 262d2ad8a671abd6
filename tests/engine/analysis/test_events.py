"""The reader of event files holds what TensorBoard's own reads, and survives what a kill leaves."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

from lab.engine.analysis.events import read_scalars
from lab.engine.analysis.run_record import RunRecord
from tests.recorded import draw

CURVES = {"val/acc": [0.25, 0.5, 0.75], "train/loss": [3.0, -1e-30, 2e30], "tag/" + "x" * 150: [1.0, 2.0]}


def by_tensorboard(folder: Path) -> dict[str, dict[int, float]]:
    accumulator = EventAccumulator(str(folder), size_guidance={SCALARS: 0, TENSORS: 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    found = {tag: {event.step: event.value for event in accumulator.Scalars(tag)} for tag in tags["scalars"]}
    for tag in tags["tensors"]:
        if accumulator.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            events = accumulator.Tensors(tag)
            found[tag] = {event.step: float(tensor_util.make_ndarray(event.tensor_proto)) for event in events}
    return found


def test_it_reads_what_tensorboard_reads_among_pictures_and_texts(tmp_path: Path) -> None:
    import torch

    with SummaryWriter(str(tmp_path)) as writer:
        for step in (0, 1, 127, 128, 300, 70_000, 5_000_000_000):
            writer.add_scalar("val/acc", step / 7, step)
            writer.add_scalar("val/loss", -step, step)
            writer.add_scalars("many", {"a": step, "b": 2 * step}, step)
            writer.add_image("picture", torch.rand(3, 64, 64), step)
            writer.add_text("text", "small", step)
            writer.add_text("text", "large " * 5000, step)
            writer.add_histogram("weights", torch.randn(10), step)
        writer.add_scalar("new_style", 0.5, 3, new_style=True)
        writer.add_scalar("double", 1 / 3, 3, double_precision=True)
    found = read_scalars(tmp_path)
    assert set(found) >= {"val/acc", "val/loss", "new_style", "double"}
    assert found == by_tensorboard(tmp_path)


def test_values_and_epochs_are_those_that_were_logged(tmp_path: Path) -> None:
    tmp_path = tmp_path / "events"
    draw(tmp_path, CURVES)
    found = read_scalars(tmp_path)
    assert list(found["val/acc"].items()) == [(9, 0.25), (19, 0.5), (29, 0.75)]
    assert list(found["train/loss"].values()) == pytest.approx(CURVES["train/loss"])
    assert read_scalars(tmp_path) == by_tensorboard(tmp_path)
    run = RunRecord(tmp_path.parent, {}, [], {}, {}, {})
    tmp_path.rename(tmp_path.parent / "tensorboard")
    assert run.epochs == {9: 1, 19: 2, 29: 3}


def test_a_run_that_went_on_lost_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    draw(tmp_path, {"val/acc": [0.1, 0.2, 0.3, 0.4]})
    first = next(tmp_path.glob("events*"))
    first.rename(tmp_path / "events.out.tfevents.1.host.1.0")  # older than what comes
    draw(tmp_path, {"val/acc": [0.25]}, start=2, session=19)
    assert read_scalars(tmp_path)["val/acc"] == pytest.approx({9: 0.1, 29: 0.25})
    assert read_scalars(tmp_path) == by_tensorboard(tmp_path)


def test_it_reads_up_to_where_a_file_ends_or_is_damaged(tmp_path: Path) -> None:
    path = draw(tmp_path, {"val/acc": [i / 64 for i in range(12)]})
    content = path.read_bytes()
    whole = read_scalars(tmp_path)["val/acc"]
    assert len(whole) == 12
    known = 0
    for length in [*range(0, len(content), 3), len(content)]:  # wherever the process was killed
        path.write_bytes(content[:length])
        found = read_scalars(tmp_path).get("val/acc", {})
        assert found == dict(list(whole.items())[: len(found)])
        assert len(found) >= known
        known = len(found)
    assert known == 12
    for garbage in (b"\0" * 64, b"\xff" * 64, b"noise, not a record" * 4):
        path.write_bytes(content[: len(content) // 2] + garbage + content[len(content) // 2 :])
        found = read_scalars(tmp_path)["val/acc"]
        assert 4 <= len(found) <= 8
        assert found == dict(list(whole.items())[: len(found)])


def test_nothing_is_read_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1.host.1.0").touch()
    assert read_scalars(tmp_path) == {}
    assert read_scalars(tmp_path / "absent") == {}
