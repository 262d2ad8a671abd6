"""Writes a model in a form that runs elsewhere, and holds what was written against the model."""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.engine.inference.export_wrappers import ExportSpec, outputs
from lab.engine.inference.tracing import any_length, elman_to_onnx
from lab.engine.utils.errors import RunFailed
from lab.engine.utils.files import atomic_write

TOLERANCE = 1e-4  # largest difference of an output, as a share of the largest output where that is above one
CHECKED = ((1, 3), (5, 11))  # batch sizes and steps that the graph is checked at
TRACED = (2, 7)  # and those that it is traced with

Runs = Callable[[Tensor], list[Tensor]]  # what was written, loaded again


def export(part: ExportSpec, model: Any, to: str, path: Path, metadata: dict[str, Any]) -> dict[int, float]:
    """Writes `path` as `to`, checked; not at all where it differs from the model.

    Args:
        part: of the model.
        model: itself, whose weights alone `safetensors` takes.
        to: `onnx`, `torch_export` or `safetensors`.
        path: of the file.
        metadata: plain values, kept in the file.

    Returns:
        The largest difference at each batch size.

    Raises:
        RunFailed: when what was written differs from the model.
    """
    model.eval()
    part.module.eval()
    with atomic_write(path) as partial, torch.no_grad(), any_length(), _quiet():
        if to == "safetensors":
            return {0: _write_weights(model, partial, metadata)}
        run = _write_onnx(part, partial, metadata) if to == "onnx" else _write_program(part, partial, metadata)
        found = {batch: _difference(run, part, batch, steps) for batch, steps in CHECKED}
    return found


def _difference(run: Runs, part: ExportSpec, batch: int, steps: int) -> float:
    """The largest difference between the outputs of what was written and of the model."""
    x = part.example(batch, steps)
    worst = 0.0
    for name, ours, theirs in zip(part.output_names, outputs(part.module(x)), run(x), strict=True):
        difference = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
        if not difference <= TOLERANCE * max(1.0, float(ours.abs().max())):
            raise RunFailed(
                f"what was exported differs from the model by {difference:.2g} in {name} at batch size {batch}, and"
                f" {TOLERANCE:g} is allowed: nothing is written"
            )
        worst = max(worst, difference)
    return worst


def trace(part: ExportSpec) -> torch.export.ExportedProgram:
    """The graph of `part`, for batches of any size."""
    part.module.to(memory_format=torch.contiguous_format)  # others are nothing to a graph, and cannot be saved
    return torch.export.export(part.module, (part.example(*TRACED),), dynamic_shapes=(part.dynamic(),), strict=False)


def _write_program(part: ExportSpec, path: Path, metadata: dict[str, Any]) -> Runs:
    torch.export.save(trace(part), path, extra_files={"lab.json": json.dumps(metadata)})
    loaded = torch.export.load(path).module()
    return lambda x: outputs(loaded(x))


def _write_onnx(part: ExportSpec, path: Path, metadata: dict[str, Any]) -> Runs:
    import onnxruntime

    axes = {axis: dim.__name__ for axis, dim in part.dynamic().items()}
    program = torch.onnx.export(
        trace(part),
        dynamo=True,
        input_names=[part.input_name],
        output_names=list(part.output_names),
        dynamic_shapes=(axes,),
        custom_translation_table={torch.ops.aten.rnn_tanh.input: elman_to_onnx},
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["lab"] = json.dumps(metadata)
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {part.input_name: x.numpy()})]


def _write_weights(model: Any, path: Path, metadata: dict[str, Any]) -> float:
    from safetensors import safe_open
    from safetensors.torch import save

    weights = {name: value.detach().contiguous().clone() for name, value in model.state_dict().items()}
    path.write_bytes(save(weights, metadata={"lab": json.dumps(metadata)}))  # its save_file lets no one else read it
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["lab"])
        again = type(model)(**told["hyperparameters"])
        again.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118, it is no dict
    for name, value in again.state_dict().items():
        if not torch.equal(value, weights[name]):
            raise RunFailed(f"{name} is not what it was when it is read again: nothing is written")
    return 0.0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what torch's exporters say of their own insides off the screen; every other warning stays."""
    level = logging.getLogger("torch").level
    logging.getLogger("torch").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # An LSTM lists its weights a second time, for cuDNN, as plain attributes
            warnings.filterwarnings("ignore", message=r"The tensor attributes? .*_flat_weights", category=UserWarning)
            warnings.filterwarnings("ignore", message=r"_check_is_size will be removed", category=FutureWarning)
            yield
    finally:
        logging.getLogger("torch").setLevel(level)
