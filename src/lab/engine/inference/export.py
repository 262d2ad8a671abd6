"""Writes a model in a form that runs elsewhere, and holds what was written against the model."""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lab.engine.inference.examples import BatchInput, Examples, RandomInput, example_arguments, input_names
from lab.engine.inference.forward import Arguments, named_outputs, tensors
from lab.engine.inference.recurrent import KeepRecurrentLayers, onnx_translations, with_torch_operators
from lab.engine.utils.errors import RunFailed
from lab.engine.utils.export_spec import ExportSpec
from lab.engine.utils.files import atomic_write

TOLERANCE = 1e-4  # largest difference of an output, as a share of the largest output where that is above one
CHECKED = ((1, 3), (5, 11))  # batch sizes and steps that the graph is checked at
TRACED = (2, 7)  # and those that it is traced with

Runs = Callable[[Arguments], list[Tensor]]  # what was written, loaded again


@dataclass(frozen=True)
class Exported:
    """What of a model is exported.

    Args:
        module: an `nn.Module` in evaluation mode, on the CPU.
        description: of the outputs, in words.
        examples: of its inputs.
        inputs: a name for each tensor that goes in.
        outputs: a name for each tensor that comes out.
        longest: the most steps of a sequence.
    """

    module: nn.Module
    description: str
    examples: Examples
    inputs: list[str]
    outputs: list[str]
    longest: int

    def input_shapes(self) -> dict[str, list[int | str]]:
        """The shape of each input by its name, free axes by theirs."""
        args, kwargs = self.examples.arguments(*TRACED)
        axes = self.examples.axes()
        shapes = zip(tensors([*args, *kwargs.values()]), _flat([*axes[0], *axes[1].values()]), strict=True)
        return {
            name: [free.get(i, size) for i, size in enumerate(x.shape)]
            for name, (x, free) in zip(self.inputs, shapes, strict=True)
        }


def describe(model: Any, dims: dict[str, Any], first_batch: Callable[[], Any]) -> Exported:
    """Finds what of `model` is exported: as its `export_wrapper` says, or else its `forward`.

    Args:
        model: with weights, on the CPU.
        dims: what the run's data offers, for `export_wrapper`.
        first_batch: makes a batch of the test data, for a model that says no shape and has no `example_input_array`.
    """
    if hasattr(model, "export_wrapper"):
        spec = model.export_wrapper(dims)
    else:
        spec = ExportSpec(model, f"what forward of {type(model).__name__} gives")
    module = spec.module.eval()
    examples: Examples = RandomInput(spec)
    if spec.sample_shape is None:
        with torch.no_grad():
            examples = BatchInput(example_arguments(model, first_batch))
    args, kwargs = examples.arguments(*TRACED)
    with torch.no_grad():
        found = named_outputs(module(*args, **kwargs))
    outputs = list(spec.output_names or found)
    return Exported(
        module, spec.description, examples, input_names(examples, module, spec.input_names), outputs, spec.max_length
    )


def export(part: Exported, model: Any, to: str, path: Path, metadata: dict[str, Any]) -> dict[int, float]:
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
    with atomic_write(path) as partial, torch.no_grad(), _quiet():
        if to == "safetensors":
            return {0: _write_weights(model, partial, metadata)}
        run = _write_onnx(part, partial, metadata) if to == "onnx" else _write_program(part, partial, metadata)
        found = {batch: _difference(run, part, batch, steps) for batch, steps in CHECKED}
    return found


def _difference(run: Runs, part: Exported, batch: int, steps: int) -> float:
    """The largest difference between the outputs of what was written and of the model."""
    args, kwargs = part.examples.arguments(batch, steps)
    expected = tensors(list(named_outputs(part.module(*args, **kwargs)).values()))
    worst = 0.0
    for name, ours, theirs in zip(part.outputs, expected, run((args, kwargs)), strict=True):
        alike = ours.shape == theirs.shape
        difference = float((ours.double() - theirs.double()).abs().max()) if alike and ours.numel() else 0.0
        if not alike or not difference <= TOLERANCE * max(1.0, float(ours.double().abs().max())):
            told = f"{difference:.2g}" if alike else f"the shape {tuple(theirs.shape)} for {tuple(ours.shape)}"
            raise RunFailed(
                f"what was exported differs from the model by {told} in {name} at batch size {batch}, and"
                f" {TOLERANCE:g} is allowed: nothing is written"
            )
        worst = max(worst, difference)
    return worst


def trace(part: Exported) -> torch.export.ExportedProgram:
    """The graph of `part`, for batches of any size and sequences of any length."""
    part.module.to(memory_format=torch.contiguous_format)  # others are nothing to a graph, and cannot be saved
    limits = {"batch": {"min": 1}, "time": {"min": 1, "max": part.longest}}
    dims = {name: torch.export.Dim(name, **limit) for name, limit in limits.items()}
    shapes = _axes(part, dims)
    args, kwargs = part.examples.arguments(*TRACED)
    with KeepRecurrentLayers():
        return torch.export.export(part.module, args, kwargs, dynamic_shapes=shapes, strict=False)


def _axes(part: Exported, names: dict[str, Any]) -> Any:
    """The free axes of each input as torch wants them: what `names` has for each."""
    args, kwargs = part.examples.axes()
    return _renamed(kwargs, names) if kwargs else _renamed(args, names)


def _flat(axes: Any) -> list[dict[int, str]]:
    """The axes of each input one after the other: dictionaries with whole numbers for keys are leaves."""
    if isinstance(axes, dict) and all(isinstance(key, int) for key in axes):
        return [axes]
    return [leaf for inside in (axes.values() if isinstance(axes, dict) else axes) for leaf in _flat(inside)]


def _renamed(axes: Any, names: dict[str, Any]) -> Any:
    return apply_to_collection(axes, str, names.__getitem__)


def _write_program(part: Exported, path: Path, metadata: dict[str, Any]) -> Runs:
    program = with_torch_operators(trace(part))
    torch.export.save(program, path, extra_files={"lab.json": json.dumps(metadata, default=str)})
    loaded = torch.export.load(path).module()
    return lambda arguments: tensors(list(named_outputs(loaded(*arguments[0], **arguments[1])).values()))


def _write_onnx(part: Exported, path: Path, metadata: dict[str, Any]) -> Runs:
    import onnxruntime

    program = torch.onnx.export(
        trace(part),
        dynamo=True,
        input_names=part.inputs,
        output_names=part.outputs,
        dynamic_shapes=_axes(part, {"batch": "batch", "time": "time"}),
        custom_translation_table=onnx_translations(),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["lab"] = json.dumps(metadata, default=str)
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    reads = {given.name for given in session.get_inputs()}

    def run(arguments: Arguments) -> list[Tensor]:
        given = zip(part.inputs, tensors([*arguments[0], *arguments[1].values()]), strict=True)
        feed = {name: x.numpy() for name, x in given if name in reads}
        return [torch.from_numpy(y) for y in session.run(None, feed)]

    return run


def _write_weights(model: Any, path: Path, metadata: dict[str, Any]) -> float:
    from safetensors import safe_open
    from safetensors.torch import save

    weights = {name: value.detach().contiguous().clone() for name, value in model.state_dict().items()}
    told = {"lab": json.dumps(metadata, default=str)}
    path.write_bytes(save(weights, metadata=told))  # its save_file lets no one else read it
    with safe_open(path, framework="pt") as file:
        for name, value in weights.items():
            if not torch.equal(value, file.get_tensor(name)):
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
            # Several inputs have the same axis of samples
            warnings.filterwarnings("ignore", message=r"# The axis name: .* will not be used", category=UserWarning)
            yield
    finally:
        logging.getLogger("torch").setLevel(level)
