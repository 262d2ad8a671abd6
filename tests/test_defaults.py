"""A class's defaults are its config's: what is built by hand is what a run builds."""

import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lab.data.digits import Digits
from lab.data.linear import Linear
from lab.engine.config.instantiate import locate
from lab.engine.utils.paths import CONFIGS
from lab.models.gan import GAN
from lab.models.linear import LinearRegression
from lab.models.mlp import MLP, MLPRegressor
from lab.models.vae import VAE

GROUPS = ["model", "data", "optimizer", "scheduler", "callbacks", "logger", "trainer"]
FILES = [path for group in GROUPS for path in sorted((CONFIGS / group).glob("*.yaml"))]


def nodes(config: Any) -> Iterator[DictConfig]:
    """Every node of a file that one of our classes is built from."""
    for node in config if not isinstance(config, DictConfig) else [config]:
        if isinstance(node, DictConfig):
            if str(node.get("_target_", "")).startswith("lab."):
                yield node
            for key in node:
                if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                    child = node[key]
                    if OmegaConf.is_config(child):
                        yield from nodes(child)


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """What a constructor takes, and the constructors that its `**kwargs` go on to."""
    found: dict[str, inspect.Parameter] = {}
    for owner in inspect.getmro(target) if inspect.isclass(target) else [target]:
        if inspect.isclass(owner) and "__init__" not in vars(owner):
            continue
        takes = inspect.signature(owner).parameters
        found = dict(takes) | found
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
            break
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_plain_key_of_a_config_is_the_default_of_its_class(path: Path) -> None:
    for node in nodes(OmegaConf.load(path)):
        takes = parameters(locate(node._target_))
        for key in map(str, node):
            if key.startswith("_") or OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
                continue
            value, default = node[key], takes[key].default
            if OmegaConf.is_config(value):
                value, default = OmegaConf.to_container(value), list(default)
            if "${" not in str(value):
                assert (value, type(value)) == (default, type(default)), f"{node._target_}({key}=…)"


def by_hand(package: str) -> list[Any]:
    """The classes of a package that configs name and that need no argument."""
    targets = dict.fromkeys(node._target_ for path in FILES for node in nodes(OmegaConf.load(path)))
    classes = [locate(target) for target in targets if target.startswith(f"lab.{package}.")]
    return [kind for kind in classes if not any(required(p) for p in inspect.signature(kind).parameters.values())]


def required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD


def inputs(model: Any) -> torch.Tensor:
    """Two samples of the shape that a model's own arguments name."""
    shape = model.hparams
    if "image_shape" in shape:
        return torch.rand(2, *shape.image_shape)
    if "vocab_size" in shape:
        return torch.randint(shape.vocab_size, (2, shape.context_length))
    return torch.rand(2, 5, shape.input_size) if "input_size" in shape else torch.rand(2, shape.in_features)


@pytest.mark.parametrize("kind", by_hand("models"))
def test_a_model_is_made_by_hand(kind: type[pl.LightningModule]) -> None:
    model = kind()
    x = torch.randn(2, model.hparams["latent_dim"]) if kind.__name__ == "GAN" else inputs(model)
    with torch.no_grad():
        found = model.eval()(x)
    assert all(part.isfinite().all() for part in (found if isinstance(found, tuple) else [found]))


@pytest.mark.parametrize("kind", by_hand("data"))
def test_a_dataset_is_made_by_hand(kind: type[pl.LightningDataModule]) -> None:
    data: Any = kind()
    if kind.__name__ in ("Digits", "MNIST", "TorchVision"):
        return  # they have files, which take a while to come by
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        assert len({len(tensor) for tensor in batch}) == 1
        assert 0 < len(batch[0]) <= loader.batch_size


def test_models_made_by_hand_fit_the_datasets_that_their_configs_are_for() -> None:
    table, digits = Linear(), Digits()
    table.setup("fit")
    x, y = next(iter(table.train_dataloader()))
    assert LinearRegression()(x).shape == MLPRegressor()(x).shape == y.shape
    assert MLP().hparams["in_features"] == math.prod(digits.image_shape)
    assert (GAN().mean, GAN().std) == (VAE().mean, VAE().std) == (digits.mean, digits.std)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_torchs_own_options_reach_an_optimizer(name: str) -> None:
    factory: Any = locate(OmegaConf.load(CONFIGS / "optimizer" / f"{name}.yaml")._target_)
    optimizer = factory(nn.Linear(2, 2).parameters(), foreach=False, fused=False, maximize=True)
    assert optimizer.param_groups[0]["maximize"]
    assert {"foreach", "maximize", "differentiable"} <= set(parameters(factory))
