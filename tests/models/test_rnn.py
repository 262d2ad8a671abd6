"""Recurrent nets, held against their equations written out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab.models.rnn import RNN, Recurrent, RNNRegressor

Step = Callable[[Tensor, Tensor, Tensor, dict[str, list[Tensor]]], tuple[Tensor, Tensor]]


def elman(x: Tensor, h: Tensor, c: Tensor, w: dict[str, list[Tensor]]) -> tuple[Tensor, Tensor]:
    [wx], [wh], [bx], [bh] = w["weight_ih"], w["weight_hh"], w["bias_ih"], w["bias_hh"]
    return torch.tanh(x @ wx.T + bx + h @ wh.T + bh), c


def gru(x: Tensor, h: Tensor, c: Tensor, w: dict[str, list[Tensor]]) -> tuple[Tensor, Tensor]:
    (wr, wz, wn), (ur, uz, un) = w["weight_ih"], w["weight_hh"]
    (br, bz, bn), (cr, cz, cn) = w["bias_ih"], w["bias_hh"]
    r = torch.sigmoid(x @ wr.T + br + h @ ur.T + cr)
    z = torch.sigmoid(x @ wz.T + bz + h @ uz.T + cz)
    n = torch.tanh(x @ wn.T + bn + r * (h @ un.T + cn))
    return (1 - z) * n + z * h, c


def lstm(x: Tensor, h: Tensor, c: Tensor, w: dict[str, list[Tensor]]) -> tuple[Tensor, Tensor]:
    i, f, g, o = (
        x @ wx.T + bx + h @ wh.T + bh
        for wx, wh, bx, bh in zip(w["weight_ih"], w["weight_hh"], w["bias_ih"], w["bias_hh"], strict=True)
    )
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


STEPS: dict[str, tuple[Step, int]] = {"elman": (elman, 1), "gru": (gru, 3), "lstm": (lstm, 4)}


def recurrent(cell: Any = "lstm", **options: Any) -> Recurrent:
    plain: dict[str, Any] = {
        "input_size": 3,
        "hidden_size": 5,
        "num_layers": 1,
        "bidirectional": False,
        "dropout": 0.0,
        "input_mode": "rows",
        "chrono_init": None,
    }
    torch.manual_seed(0)
    return Recurrent(cell=cell, **(plain | options))


def by_hand(net: Recurrent, cell: str, x: Tensor, suffix: str) -> Tensor:
    """States (B, T, H) of the layer whose weights end in `suffix`."""
    step, gates = STEPS[cell]
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = {name: list(getattr(net.layers, f"{name}_{suffix}").chunk(gates)) for name in names}
    h = c = torch.zeros(len(x), 5)
    states = []
    for t in range(x.shape[1]):
        h, c = step(x[:, t], h, c, weights)
        states.append(h)
    return torch.stack(states, 1)


@pytest.mark.parametrize("cell", STEPS)
def test_a_cell_is_its_equations(cell: str) -> None:
    net = recurrent(cell)
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.randn(4, 7, 3)
    torch.testing.assert_close(net.encode(x), by_hand(net, cell, x, "l0")[:, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cell", STEPS)
def test_layers_and_directions_are_stacked(cell: str) -> None:
    net = recurrent(cell, num_layers=2, bidirectional=True)
    x = below = torch.randn(4, 7, 3)
    for layer in ("l0", "l1"):
        forth = by_hand(net, cell, below, layer)
        back = by_hand(net, cell, below.flip(1), f"{layer}_reverse").flip(1)
        below = torch.cat([forth, back], 2)
    torch.testing.assert_close(net.encode(x), torch.cat([forth[:, -1], back[:, 0]], 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", STEPS)
def test_padding_is_not_read(cell: str, bidirectional: bool) -> None:
    net = recurrent(cell, bidirectional=bidirectional, num_layers=2)
    x, lengths = torch.randn(3, 9, 3), torch.tensor([9, 4, 1])
    together = net.encode(x, lengths)
    for i, length in enumerate(lengths):
        torch.testing.assert_close(together[i : i + 1], net.encode(x[i : i + 1, :length]), atol=1e-6, rtol=1e-5)


def test_images_are_read_by_rows_or_by_pixels() -> None:
    image = torch.randn(2, 3, 4, 5)
    rows = image.permute(0, 2, 1, 3).reshape(2, 4, 15)
    net = recurrent(input_size=15)
    torch.testing.assert_close(net.encode(image), net.encode(rows))
    pixels = recurrent(input_mode="pixels")
    torch.testing.assert_close(pixels.encode(image[:, :1]), pixels.encode(image[:, 0].reshape(2, 20, 1)))


def test_heads_are_affine_in_the_state() -> None:
    x = torch.randn(2, 6, 3)
    for model in (RNN(4, input_size=3, hidden_size=5), RNNRegressor(3, 4, hidden_size=5)):
        h = model.encode(x)
        torch.testing.assert_close(model(x), h @ model.head.weight.T + model.head.bias)


def test_recurrent_weights_start_orthogonal_and_the_forget_gate_open() -> None:
    net: Any = recurrent("lstm")
    for gate in net.layers.weight_hh_l0.split(5):
        torch.testing.assert_close(gate @ gate.T, torch.eye(5), atol=1e-5, rtol=0)
    bias = net.layers.bias_ih_l0 + net.layers.bias_hh_l0
    assert bias.tolist() == [0.0] * 5 + [1.0] * 5 + [0.0] * 10


@pytest.mark.slow
def test_units_of_an_lstm_begin_with_memories_of_all_lengths() -> None:
    net: Any = recurrent("lstm", chrono_init=500, hidden_size=2000)
    put_in, forget, candidate, out = (net.layers.bias_ih_l0 + net.layers.bias_hh_l0).detach().split(2000)
    times = forget.exp()  # 1 / (1 - sigmoid(b)) steps is 1 + exp(b)
    assert 1 <= times.min() < 5
    assert 495 < times.max() <= 499
    assert float(times.mean()) == pytest.approx(250, rel=0.05)
    assert torch.equal(put_in, -forget)
    assert not candidate.any()
    assert not out.any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dropout": 0.5}, "num_layers=1"),
        ({"cell": "gru", "chrono_init": 100}, "chrono_init=100, cell=gru"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recurrent(**options)
