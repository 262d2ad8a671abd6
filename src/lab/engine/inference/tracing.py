"""Tracing recurrent layers for export."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._decomp import global_decomposition_table

KEY = DispatchKey.CompositeImplicitAutograd


def _lstm_shapes(
    x: Tensor, state: list[Tensor], params: list[Tensor], biases: bool, layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    h, c = state
    y, h = _shapes(x, h, params, biases, layers, dropout, train, bidirectional, batch_first)
    return y, h, torch.empty_like(c)


def _shapes(
    x: Tensor, state: Tensor, params: list[Tensor], biases: bool, layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    width = state.shape[2] * (2 if bidirectional else 1)
    return x.new_empty((x.shape[0], x.shape[1], width)), torch.empty_like(state)


@contextmanager
def any_length() -> Iterator[None]:
    """Lets a recurrent layer be traced for sequences of any length; it is one operator of the graph.

    To know what shape comes out of it, torch's tracer goes through all of the example's steps, and so binds the graph
    to their number. Here it is told the shapes. `torch.export._patches` does likewise for two of the three kinds.
    """
    operators: dict[Any, Any] = {
        torch.ops.aten.lstm.input: _lstm_shapes,
        torch.ops.aten.gru.input: _shapes,
        torch.ops.aten.rnn_tanh.input: _shapes,
    }
    table: dict[Any, Any] = global_decomposition_table["post_autograd"]  # type: ignore[assignment]
    before = {operator: (table.get(operator), operator.py_kernels.get(KEY)) for operator in operators}
    try:
        for operator, shapes in operators.items():
            _register(table, operator, shapes, shapes)
        yield
    finally:
        for operator, (decomposition, kernel) in before.items():
            _register(table, operator, decomposition, kernel)


def _register(table: dict[Any, Any], operator: Any, decomposition: Any, kernel: Any) -> None:
    for registry, key, value in ((table, operator, decomposition), (operator.py_kernels, KEY, kernel)):
        if value is None:
            registry.pop(key, None)
        else:
            registry[key] = value
    operator._dispatch_cache.clear()


def elman_to_onnx(
    x: Any, state: Any, params: list[Any], biases: bool, layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """Elman's layers as ONNX's RNN, for `torch.onnx.export`, which has no translation of its own.

    Source: ONNX operators, RNN, version 14: weights (directions, H, D), (directions, H, H), biases (directions, 2 H).
    """
    from onnxscript import opset18

    op: Any = opset18  # its annotations are for tensors alone

    directions = 2 if bidirectional else 1
    each = 4 if biases else 2  # weights and biases of one direction of one layer
    y = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x  # (B, T, D) -> (T, B, D)
    last = []
    for layer in range(layers):
        mine = [params[(layer * directions + i) * each :][:each] for i in range(directions)]
        stacked = [op.Concat(*(op.Unsqueeze(p[i], [0]) for p in mine), axis=0) for i in range(each)]
        start = op.Slice(state, [layer * directions], [(layer + 1) * directions], [0])  # (directions, B, H)
        bias = [op.Concat(stacked[2], stacked[3], axis=1)] if biases else [None]
        direction = "bidirectional" if bidirectional else "forward"
        states, h = op.RNN(y, *stacked[:2], *bias, None, start, direction=direction, hidden_size=state.shape[2])
        y = op.Reshape(op.Transpose(states, perm=[0, 2, 1, 3]), [0, 0, -1])  # (T, directions, B, H) -> (T, B, ...)
        last.append(h)
    return (op.Transpose(y, perm=[1, 0, 2]) if batch_first else y), op.Concat(*last, axis=0)
