"""Writes a model in a form that runs elsewhere, and compares what was written with the model."""

import contextlib
import inspect
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.utilities.data import extract_batch_size
from torch import Tensor, nn

from lab.engine.inference.forward import Arguments, forward_arguments, named_outputs, tensors
from lab.engine.inference.recurrent import KeepRecurrentLayers, onnx_translations, with_torch_operators
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.export_spec import ExportSpec
from lab.engine.utils.files import atomic_write

TOLERANCE = 1e-4  # largest difference of an output, as a share of the largest output where that is above one
CHECKED = ((1, 1), (5, 11))  # batch sizes and steps that the graph is checked at
TRACED = (2, 7)  # and those that it is traced with

Examples = Callable[[int, int], Arguments]  # makes inputs of a number of samples, and of steps if that is free
Loaded = Callable[[Arguments], list[Tensor]]  # the written file, loaded again


@dataclass(frozen=True)
class Exported:
    """Holds the module to export, with examples and names of its inputs and outputs.

    Args:
        module: an `nn.Module` in evaluation mode, on the CPU.
        description: of the outputs, in words.
        examples: of its inputs.
        inputs: the shape of each tensor that goes in by its name, with `batch` and `time` for axes of any size.
        outputs: a name for each tensor that comes out.
        max_length: the most steps of a sequence.
    """

    module: nn.Module
    description: str
    examples: Examples
    inputs: dict[str, list[int | str]]
    outputs: list[str]
    max_length: int

    def axes(self) -> list[dict[int, str]]:
        """Returns for each input the names of its axes of any size."""
        return [{i: size for i, size in enumerate(x) if isinstance(size, str)} for x in self.inputs.values()]


class Wrapper(nn.Module):
    """Gives a module another `forward`."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.forward = forward


@torch.no_grad()
def describe(model: Any, dims: dict[str, Any], first_batch: Callable[[], Any]) -> Exported:
    """Describes what to export of `model`: what its `export_wrapper` returns, or else its `forward`.

    Args:
        model: with weights, on the CPU.
        dims: what the run's data offers, for `export_wrapper`.
        first_batch: makes a batch of the test data, for a model that says no shape and has no `example_input_array`.

    Raises:
        UserError: when the model has neither an `export_wrapper` nor a `forward`.
    """
    if not hasattr(model, "export_wrapper") and type(model).forward is pl.LightningModule.forward:
        raise UserError(
            f"{type(model).__name__} has no forward and no export_wrapper: to=safetensors writes its weights"
        )
    spec = model.export_wrapper(dims) if hasattr(model, "export_wrapper") else ExportSpec(model, "what forward gives")
    module = (spec.module if spec.forward is None else Wrapper(spec.module, spec.forward)).eval()
    examples = random_inputs(spec) if spec.sample_shape is not None else repeated_samples(model, first_batch)
    args, kwargs = examples(*TRACED)
    shapes = [_shape(x, y) for x, y in zip(tensors((args, kwargs)), tensors(examples(*CHECKED[0])), strict=True)]
    names = spec.input_names or _input_names(module, args, kwargs)
    outputs = spec.output_names or named_outputs(module(*args, **kwargs))
    inputs = dict(zip(names, shapes, strict=True))
    return Exported(module, spec.description, examples, inputs, list(outputs), spec.max_length)


def _shape(x: Tensor, other: Tensor) -> list[int | str]:
    """Returns the shape of an input, with a name for each axis whose size differs in another example."""
    sizes = zip(x.shape, other.shape, strict=True)
    return [size if size == changed else "time" if i else "batch" for i, (size, changed) in enumerate(sizes)]


def random_inputs(spec: ExportSpec) -> Examples:
    """Makes a function that draws one random input, as `spec` describes it; the same every time."""

    def draw(batch: int, steps: int) -> Arguments:
        assert spec.sample_shape is not None
        shape = (batch, *(min(steps, spec.max_length) if size is None else size for size in spec.sample_shape))
        draws = torch.Generator().manual_seed(batch)
        if spec.vocab_size is not None:
            return (torch.randint(spec.vocab_size, shape, generator=draws),), {}
        return (torch.randn(shape, generator=draws),), {}

    return draw


def repeated_samples(model: Any, first_batch: Callable[[], Any]) -> Examples:
    """Makes a function that repeats the samples of the model's `example_input_array`, or else of a batch.

    The first axis alone is free, where it counts samples.
    """
    given: Any = getattr(model, "example_input_array", None)
    several = isinstance(given, tuple | list)  # then all are arguments, and no targets among them
    arguments = (tuple(given), {}) if several else forward_arguments(model, first_batch() if given is None else given)
    size = extract_batch_size([*arguments[0], *arguments[1].values()])
    if not size:
        raise UserError("the example inputs have no axis of samples: give the model an export_wrapper")

    def repeat(batch: int, steps: int) -> Arguments:
        rows = torch.arange(batch) % size
        found: Any = apply_to_collection(arguments, Tensor, lambda x: x[rows] if x.ndim and len(x) == size else x)
        return tuple(found[0]), dict(found[1])

    return repeat


def _input_names(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """Names each input tensor after its argument of `forward`; numbers those of an argument with several."""
    arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    numbers = {name: len(tensors(value)) for name, value in arguments.items()}
    return [f"{name}_{i + 1}" if number > 1 else name for name, number in numbers.items() for i in range(number)]


def export(part: Exported | None, model: nn.Module, to: str, path: Path, metadata: dict[str, Any]) -> dict[int, float]:
    """Writes the model to `path` in the format `to`, if the result agrees with the model.

    Args:
        part: of the model; `safetensors` needs none.
        model: itself, whose weights alone `safetensors` takes.
        to: `onnx`, `torch_export` or `safetensors`.
        path: of the file.
        metadata: plain values, kept in the file.

    Returns:
        The largest difference at each batch size; of weights, which are compared to the bit, none.

    Raises:
        RunFailed: when what was written differs from the model.
    """
    saved_metadata = json.dumps(metadata, default=str)
    with atomic_write(path) as partial, torch.no_grad(), _quiet():
        if to == "safetensors":
            _write_weights(model, partial, saved_metadata)
            return {}
        assert part is not None
        loaded = (_write_onnx if to == "onnx" else _write_program)(part, partial, saved_metadata)
        return {batch: _difference(loaded, part, batch, steps) for batch, steps in CHECKED}


def _difference(loaded: Loaded, part: Exported, batch: int, steps: int) -> float:
    """Returns the largest difference between the outputs of the written file and of the model."""
    args, kwargs = part.examples(batch, steps)
    expected = tensors(named_outputs(part.module(*args, **kwargs)))
    worst = 0.0
    for name, ours, theirs in zip(part.outputs, expected, loaded((args, kwargs)), strict=True):
        alike = ours.shape == theirs.shape
        difference = float((ours.double() - theirs.double()).abs().max()) if alike and ours.numel() else 0.0
        if not alike or not difference <= TOLERANCE * max(1.0, float(ours.double().abs().max())):
            gap = f"{difference:.2g}" if alike else f"the shape {tuple(theirs.shape)} for {tuple(ours.shape)}"
            raise RunFailed(
                f"what was exported differs from the model by {gap} in {name} at batch size {batch}, and"
                f" {TOLERANCE:g} is allowed: nothing is written"
            )
        worst = max(worst, difference)
    return worst


def trace(part: Exported) -> torch.export.ExportedProgram:
    """Traces the graph of `part`, for batches of any size and sequences of any length.

    Raises:
        RunFailed: when torch cannot trace it.
    """
    part.module.to(memory_format=torch.contiguous_format)  # others are nothing to a graph, and cannot be saved
    limits = {"batch": {"min": 1}, "time": {"min": 1, "max": part.max_length}}
    dims = {name: torch.export.Dim(name, **limit) for name, limit in limits.items()}
    args, kwargs = part.examples(*TRACED)
    shapes = torch.export.ShapesCollection()
    for x, axes in zip(tensors((args, kwargs)), part.axes(), strict=True):
        shapes[x] = {i: dims[name] for i, name in axes.items()}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), KeepRecurrentLayers():  # torch prints a graph that it cannot finish
            program = torch.export.export(part.module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of many kinds; by itself the model has just done the same
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunFailed(f"torch.export cannot trace {part.description}, with batches of any size: {why}") from error
    sys.stderr.write(said.getvalue())
    return program


def _write_program(part: Exported, path: Path, metadata: str) -> Loaded:
    torch.export.save(with_torch_operators(trace(part)), path, extra_files={"lab.json": metadata})
    loaded = torch.export.load(path).module()
    return lambda arguments: tensors(named_outputs(loaded(*arguments[0], **arguments[1])))


def _write_onnx(part: Exported, path: Path, metadata: str) -> Loaded:
    import onnxruntime

    program = torch.onnx.export(
        trace(part),
        dynamo=True,
        input_names=list(part.inputs),
        output_names=part.outputs,
        dynamic_shapes=part.axes(),
        custom_translation_table=onnx_translations(),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["lab"] = metadata
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    used = {given.name for given in session.get_inputs()}

    def run(arguments: Arguments) -> list[Tensor]:
        given = zip(part.inputs, tensors(arguments), strict=True)
        return [torch.from_numpy(y) for y in session.run(None, {name: x.numpy() for name, x in given if name in used})]

    return run


def _write_weights(model: nn.Module, path: Path, metadata: str) -> None:
    from safetensors.torch import load, save

    weights = {name: value.detach().contiguous().clone() for name, value in model.state_dict().items()}
    path.write_bytes(save(weights, metadata={"lab": metadata}))  # its save_file lets no one else read it
    for name, value in load(path.read_bytes()).items():
        if not torch.equal(value, weights[name]):
            raise RunFailed(f"{name} is not what it was when it is read again: nothing is written")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what torch's exporters print and warn of their own internals; every other warning stays."""
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
