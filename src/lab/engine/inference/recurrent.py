"""Traces recurrent layers for sequences of any length: one operator of the graph instead of one node a step.

`torch.export` of torch 2.15 still unrolls LSTM, GRU and RNN, and so binds a graph to the number of steps of its
example; here each is traced as a custom operator. In a program of torch that gives way to torch's own operator, so that
the program loads without this project; in ONNX, to the operator of the same name.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lab.engine.utils.errors import RunFailed

OPTIONS = "Tensor[] params, bool biases, int layers, float dropout, bool train, bool bidirectional, bool batch_first"
SCHEMAS = {"lstm": f"(Tensor x, Tensor[] state, {OPTIONS}) -> (Tensor, Tensor, Tensor)"} | dict.fromkeys(
    ("gru", "rnn_tanh", "rnn_relu"), f"(Tensor x, Tensor state, {OPTIONS}) -> (Tensor, Tensor)"
)
# Gates of torch in the order of ONNX: LSTM i f g o -> i o f c, GRU r z n -> z r h
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}


def _shapes(x: Tensor, state: Any, params: Any, *options: Any) -> tuple[Tensor, ...]:
    """Returns empty tensors of the shapes of a layer's outputs: all states (B, T, ...) or (T, B, ...), and the last."""
    bidirectional, last = options[4], state if isinstance(state, list | tuple) else [state]
    states = x.new_empty((*x.shape[:2], last[0].shape[2] * (2 if bidirectional else 1)))
    return states, *map(torch.empty_like, last)


OPERATORS: dict[Any, Any] = {
    getattr(torch, name): torch.library.custom_op(f"lab::{name}", getattr(torch, name), mutates_args=(), schema=schema)
    for name, schema in SCHEMAS.items()
}
for _operator in OPERATORS.values():
    _operator.register_fake(_shapes)


class KeepRecurrentLayers(TorchFunctionMode):
    """Records each call of a recurrent layer as one custom operator while a model is traced."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        packed = len(args) > 3 and not isinstance(args[3], bool)  # a packed sequence: torch's own way
        operator = None if packed else OPERATORS.get(func)
        return (operator or func)(*args, **(kwargs or {}))


def with_torch_operators(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Replaces the custom operators by torch's own, so that the program loads without this project."""
    own = {getattr(torch.ops.lab, name).default: getattr(torch.ops.aten, name).input for name in SCHEMAS}
    graph = program.graph
    for node in [node for node in graph.nodes if node.target in own]:
        with graph.inserting_before(node):
            replacement = graph.call_function(own[node.target], node.args, node.kwargs)
        replacement.meta.update(node.meta)
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)
    program.graph_module.recompile()
    return program


def onnx_translations() -> dict[Any, Any]:
    """Returns the ONNX translation of each custom operator, for `torch.onnx.export`."""
    return {getattr(torch.ops.lab, name).default: _translation(name) for name in SCHEMAS}


def _translation(name: str) -> Callable[..., Any]:
    """Makes the function that translates layers of one kind into ONNX's operators.

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
        starts = list(state) if isinstance(state, list | tuple) else [state]
        size = starts[0].shape[2]
        options: dict[str, Any] = {"hidden_size": size, "direction": "bidirectional" if bidirectional else "forward"}
        if name == "gru":
            options["linear_before_reset"] = 1
        if name == "rnn_relu":
            options["activations"] = ["Relu"] * directions
        layer_of = getattr(op, name.partition("_")[0].upper())  # LSTM, GRU or RNN
        order = [gate * size + i for gate in GATES[name] for i in range(size)]
        y = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x  # (B, T, D) -> (T, B, D)
        ends = []
        for layer in range(layers):
            mine = [params[(layer * directions + i) * each :][:each] for i in range(directions)]
            stacked = [
                op.Concat(*(op.Unsqueeze(weights, [0]) for weights in kind), axis=0) for kind in zip(*mine, strict=True)
            ]
            stacked = [op.Gather(weights, order, axis=1) for weights in stacked]
            bias = op.Concat(stacked[2], stacked[3], axis=1) if biases else None
            here = [op.Slice(s, [layer * directions], [(layer + 1) * directions], [0]) for s in starts]
            states, *last = layer_of(y, *stacked[:2], bias, None, *here, **options)
            y = op.Reshape(op.Transpose(states, perm=[0, 2, 1, 3]), [0, 0, -1])  # (T, directions, B, H) -> (T, B, ...)
            ends.append(last)
        lasts = [op.Concat(*found, axis=0) for found in zip(*ends, strict=True)]
        return (op.Transpose(y, perm=[1, 0, 2]) if batch_first else y), *lasts

    return translate
