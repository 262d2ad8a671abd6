"""A network from elsewhere: what of it is taken over."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from lab.engine.training.build import build
from lab.engine.utils.errors import UserError
from lab.models.resnet import ResNet
from tests.conftest import Compose, small


def test_a_large_image_meets_torchvisions_own_network() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=7).eval()
    model = ResNet([3, 64, 64], 7)
    model.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.eval()(images), theirs(images), atol=1e-5, rtol=1e-4)


def test_a_small_image_keeps_its_size_through_the_stem() -> None:
    model = ResNet([1, 28, 28], 10)
    assert model.maxpool(model.conv1(torch.randn(2, 1, 28, 28))).shape == (2, 64, 28, 28)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(("depth", "millions"), [(18, 11.69), (34, 21.80), (50, 25.56)])
def test_sizes_are_those_that_torchvision_documents(depth: Any, millions: float) -> None:
    assert sum(p.numel() for p in ResNet([3, 224, 224], 1000, depth).parameters()) / 1e6 == pytest.approx(
        millions, abs=0.005
    )


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What torchvision serves, without a network: as it begins."""
    state = torchvision.models.resnet18().state_dict()
    kind = type(torchvision.models.ResNet18_Weights.DEFAULT)
    monkeypatch.setattr(kind, "get_state_dict", lambda *_, **__: dict(state))
    return state


def test_torchvisions_weights_are_taken_over_where_they_fit(theirs: dict[str, torch.Tensor]) -> None:
    model = ResNet([1, 64, 64], 10, weights="DEFAULT")
    torch.testing.assert_close(model.layer1[0].conv1.weight.detach(), theirs["layer1.0.conv1.weight"])
    grey = torch.randn(1, 1, 64, 64)
    colour = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), theirs["conv1.weight"], stride=2, padding=3)
    torch.testing.assert_close(model.conv1(grey).detach(), colour, atol=1e-4, rtol=1e-3)
    assert model.fc.weight.shape == (10, 512), "other classes: this one starts afresh"
    assert model.hparams["weights"] is None, "a checkpoint brings its own"


def test_weights_that_torchvision_does_not_have_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.weights=IMAGENET1K_V2: .* depth 18 .* DEFAULT, IMAGENET1K_V1$"):
        ResNet([3, 64, 64], 10, weights="IMAGENET1K_V2")


def test_a_state_dict_of_torchvision_is_a_weights_file(cfg: Compose, tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    theirs = torchvision.models.resnet18().state_dict()
    torch.save(theirs, path)
    model, _, _ = build(
        cfg(*small("resnet", "digits"), "callbacks=none", f"weights.path={path}", "weights.strict=false")
    )
    assert torch.equal(model.layer4[1].bn2.running_var, theirs["layer4.1.bn2.running_var"])
    assert model.conv1.weight.shape == (64, 1, 3, 3), "small and grey: this one starts afresh"
