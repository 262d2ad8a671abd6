"""LeNet, against the paper."""

import torch

from lab.models.lenet import LeNet


def test_lenet_has_the_sizes_of_the_paper() -> None:
    sizes = {name: sum(p.numel() for p in layer.parameters()) for name, layer in LeNet().features.named_children()}
    assert sizes["0"] == 156  # C1 of the paper
    assert sum(p.numel() for p in LeNet().head[0].parameters()) == 48_120  # C5
    assert sum(p.numel() for p in LeNet().head[2].parameters()) == 10_164  # F6


def test_lenet_grows_with_its_width_and_keeps_its_keys_with_dropout() -> None:
    plain, wide = LeNet(), LeNet(width=2, dropout=0.5)
    assert list(plain.state_dict()) == list(wide.state_dict())
    twice = {name: tuple(2 * n for n in weight.shape) for name, weight in plain.named_parameters()}
    assert tuple(wide.head[2].weight.shape) == twice["head.2.weight"]
    assert tuple(wide.features[3].weight.shape)[:2] == twice["features.3.weight"][:2]
    x = torch.randn(64, 1, 28, 28)
    assert torch.equal(plain(x), plain(x))
    assert not torch.equal(wide(x), wide(x)), "dropout draws anew each time"
    wide.eval()
    assert torch.equal(wide(x), wide(x))
