"""Traces recurrent layers for sequences of any length: one operator of the graph instead of one node a step.

torch's tracer goes through a recurrent layer step by step, and so binds a graph to the number of steps of its example.
Here the layer is recorded as a custom operator. ONNX has operators for all three kinds; in a program of torch the
custom operator gives way to torch's own, so that it loads where nobody knows this project.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lab.engine.utils.errors import RunFailed

# Gates of torch in the order of ONNX: LSTM i f g o -> i o f c, GRU r z n -> z r h
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}
OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}  # of ONNX
ATTRIBUTES: dict[str, dict[str, Any]] = {"gru": {"linear_before_reset": 1}, "rnn_relu": {"activations": ["Relu"]}}


@torch.library.custom_op("lab::lstm", mutates_args=())
def lstm(
    x: Tensor, state: list[Tensor], params: list[Tensor], biases: bool, layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`torch.lstm` as one operator: all states (B, T, ...), and the last h and c."""
    return torch.lstm(x, state, params, biases, layers, dropout, train, bidirectional, batch_first)


@lstm.register_fake  # type: ignore[untyped-decorator]
def _(x: Any, state: Any, params: Any, *options: Any) -> Any:
    h, c = state
    return _states(x, h, *options), torch.empty_like(h), torch.empty_like(c)


def _simple(name: str) -> Any:
    """`torch.gru`, `torch.rnn_tanh` or `torch.rnn_relu` as one operator: all states (B, T, ...), and the last h."""
    layer: Callable[..., tuple[Tensor, Tensor]] = getattr(torch, name)

    def run(
        x: Tensor, state: Tensor, params: list[Tensor], biases: bool, layers: int, dropout: float, train: bool,
        bidirectional: bool, batch_first: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return layer(x, state, params, biases, layers, dropout, train, bidirectional, batch_first)

    operator: Any = torch.library.custom_op(f"lab::{name}", run, mutates_args=())
    operator.register_fake(lambda x, h, params, *options: (_states(x, h, *options), torch.empty_like(h)))
    return operator


def _states(x: Tensor, h: Tensor, *options: Any) -> Tensor:
    bidirectional = options[4]
    return x.new_empty((x.shape[0], x.shape[1], h.shape[2] * (2 if bidirectional else 1)))


LAYERS: dict[Any, Any] = {torch.lstm: lstm} | {
    getattr(torch, name): _simple(name) for name in ("gru", "rnn_tanh", "rnn_relu")
}


class KeepRecurrentLayers(TorchFunctionMode):
    """Records each call of a recurrent layer as one custom operator while a model is traced."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        packed = len(args) > 3 and not isinstance(args[3], bool)  # a packed sequence: torch's own way
        operator = None if packed else LAYERS.get(func)
        return (operator or func)(*args, **(kwargs or {}))


def with_torch_operators(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Puts torch's own operators in the place of the custom ones: the program loads without this project."""
    graph = program.graph
    for node in list(graph.nodes):
        for name in OPERATORS:
            if node.target is getattr(torch.ops.lab, name).default:
                with graph.inserting_before(node):
                    own = graph.call_function(getattr(torch.ops.aten, name).input, node.args, node.kwargs)
                own.meta.update(node.meta)
                node.replace_all_uses_with(own)
                graph.erase_node(node)
    program.graph_module.recompile()
    return program


def onnx_translations() -> dict[Any, Any]:
    """What `torch.onnx.export` writes for each custom operator."""
    return {getattr(torch.ops.lab, name).default: _translation(name) for name in OPERATORS}


def _translation(name: str) -> Callable[..., Any]:
    """Layers of one kind as ONNX's operators.

    Source: ONNX operators LSTM, GRU and RNN, version 14: weights (directions, gates H, D), (directions, gates H, H),
    biases (directions, 2 gates H).
    """

    def translate(
        x: Any, state: Any, params: list[Any], biases: bool, layers: int, dropout: float, train: bool,
        bidirectional: bool, batch_first: bool,
    ) -> tuple[Any, ...]:  # fmt: skip
        from onnxscript import opset18

        op: Any = opset18  # its annotations are for tensors alone
        directions, each = (2 if bidirectional else 1), (4 if biases else 2)  # weights and biases of one direction
        if len(params) != layers * directions * each:
            raise RunFailed("to=onnx: ONNX has no LSTM with projections (proj_size)")
        starts = list(state) if name == "lstm" else [state]
        size = starts[0].shape[2]
        attributes = dict(ATTRIBUTES.get(name, {}), hidden_size=size)
        if "activations" in attributes:
            attributes["activations"] = attributes["activations"] * directions
        order = [gate * size + i for gate in GATES[name] for i in range(size)]
        y = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x  # (B, T, D) -> (T, B, D)
        lasts: list[list[Any]] = [[] for _ in starts]
        for layer in range(layers):
            mine = [params[(layer * directions + i) * each :][:each] for i in range(directions)]
            stacked = [op.Concat(*(op.Unsqueeze(p[i], [0]) for p in mine), axis=0) for i in range(each)]
            stacked = [op.Gather(weights, order, axis=1) for weights in stacked]
            bias = op.Concat(stacked[2], stacked[3], axis=1) if biases else None
            here = [op.Slice(s, [layer * directions], [(layer + 1) * directions], [0]) for s in starts]
            direction = "bidirectional" if bidirectional else "forward"
            layer_of = getattr(op, OPERATORS[name])
            states, *last = layer_of(y, *stacked[:2], bias, None, *here, direction=direction, **attributes)
            y = op.Reshape(op.Transpose(states, perm=[0, 2, 1, 3]), [0, 0, -1])  # (T, directions, B, H) -> (T, B, ...)
            for found, end in zip(lasts, last, strict=False):
                found.append(end)
        ends = [op.Concat(*found, axis=0) for found in lasts]
        return (op.Transpose(y, perm=[1, 0, 2]) if batch_first else y), *ends

    return translate
