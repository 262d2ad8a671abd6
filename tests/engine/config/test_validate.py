"""Every config composes, is right, and describes what can be built."""

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from torch import Tensor

from lab.engine.cli.command import check_sweep
from lab.engine.config.compose import compose
from lab.engine.config.instantiate import instantiate
from lab.engine.inference.reuse import check_data_compatibility
from lab.engine.utils.errors import UserError
from lab.engine.utils.machine import has_package
from tests.conftest import OFFERS, SMALL_DATA, Compose, choices, fits, small, with_dims


def partner(group: str, choice: str) -> list[str]:
    """A choice from the other side that fits a dataset, a model or an optimizer, and what it asks for."""
    if group == "data":
        return [
            f"model={next(model for model in with_dims('model') if fits(model, choice))}",
            *SMALL_DATA.get(choice, []),
        ]
    if group == "model":
        return [f"data={next(data for data in with_dims('data') if fits(choice, data) and data not in OFFERS)}"]
    if (group, choice) == ("optimizer", "lbfgs"):
        return ["scheduler=none"]
    return []


@pytest.mark.parametrize("choice", choices("sweep"))
def test_every_search_space_passes_the_checks_and_is_named_after_its_file(choice: str) -> None:
    check = compose([f"sweep={choice}"], hydra=True)
    check.hydra.overrides.task = [f"sweep={choice}"]
    check_sweep(check)
    assert check.sweep.name == choice
    assert check.hydra.mode.name == "MULTIRUN"


@pytest.mark.parametrize("group", ["data", "model", "optimizer", "trainer", "callbacks", "logger"])
def test_every_target_is_built(group: str, cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytorch_lightning.accelerators.CUDAAccelerator.is_available", lambda: False)
    for choice in choices(group):
        if choice in ("wandb", "mlflow", "gpu", "ddp"):  # an extra or a device that may be missing
            continue
        if choice == "huggingface" and not has_package("datasets"):
            continue
        node = cfg(f"{group}={choice}", *partner(group, choice))[group]
        for part in [node] if node is None or "_target_" in node else node.values():
            instantiate(part)


def test_trainer_fields_are_those_of_lightning(cfg: Compose) -> None:
    fields = set(inspect.signature(Trainer.__init__).parameters) - {"self", "logger", "callbacks"}
    assert set(cfg().trainer) - {"_target_"} <= fields
    assert fields - set(cfg().trainer) <= {"plugins", "model_registry", "enable_autolog_hparams"}


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.open",
        "torch.load",
        "lab.models.tasks.plots.Image.open",
        "lab.engine.runs.run.subprocess.run",
    ],
)
def test_only_allowed_targets_are_built(target: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    node = OmegaConf.create(
        {"nested": [{"_target_": target, "_args_": [f"touch {canary}"]}], "_target_": "lab.models.lenet.LeNet"}
    )
    with pytest.raises(UserError, match="is not allowed"):
        instantiate(node)
    assert not canary.exists()


@pytest.mark.parametrize("choice", [choice for choice in with_dims("data") if choice != "mnist"])  # data/test_mnist.py
def test_dims_are_what_a_batch_holds(choice: str, cfg: Compose) -> None:
    composed = cfg(*small(partner("data", choice)[0].partition("=")[2], choice))
    data = instantiate(composed.data)
    data.prepare_data()
    data.setup("fit")
    for inputs, *_, targets in (next(iter(data.train_dataloader())), next(iter(data.test_dataloader()))):
        for name, dim in OmegaConf.to_container(composed.dims, resolve=True).items():  # type: ignore[union-attr]
            assert holds(str(name), dim, data, inputs, targets), (choice, name, dim)


def holds(name: str, dim: Any, data: Any, inputs: Tensor, targets: Tensor) -> bool:
    """Whether a batch has what `dims` says of it."""
    match name:
        case "image_shape":
            return list(inputs.shape[1:]) == dim
        case "pixel_mean_std":
            return bool(dim == [data.mean, data.std])
        case "sequence":
            return math.prod(inputs.shape[1:]) == math.prod(dim) and inputs.shape[-1] == dim[1]
        case "features":
            return bool(inputs[0].numel() == dim)
        case "classes":
            return targets.ndim == 1 and set(targets.tolist()) <= set(range(dim))
        case "targets":
            return list(targets.shape[1:]) == [dim]
        case "vocab":
            return bool(inputs.min() >= 0 and max(inputs.max(), targets.max()) < dim)
        case "context_length":
            return inputs.shape[1] == targets.shape[1] == dim
    raise AssertionError(f"what is dims.{name}?")


def test_a_model_is_told_of_other_units_and_refused_other_shapes(cfg: Compose, tmp_path: Path) -> None:
    trained = cfg("model=vae", "data=digits")
    assert check_data_compatibility(trained, cfg("model=vae", "data=mnist")) == {"pixel_mean_std": [0.1307, 0.3081]}
    assert check_data_compatibility(trained, trained) == {}
    with pytest.raises(UserError, match="has in_features=20, and this data would need 50"):
        check_data_compatibility(
            cfg("model=linear_regression", "data=linear"),
            cfg("model=linear_regression", "data=linear", "data.num_features=50"),
        )
