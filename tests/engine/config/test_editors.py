"""The schemas that editors read: every config fits its own, and mistakes in a copy of it do not."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from omegaconf import OmegaConf

from lab.engine.config import editors
from lab.engine.config.editors import descriptions, file_schema
from lab.engine.utils.paths import CONFIGS
from lab.models.mlp import MLP

GROUPS = sorted({path.parent.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")} - {"."})


def load(path: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(path), resolve=False)  # for YAML 1.1, 1.0e4 is text


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_every_config_fits_the_schema_of_its_group(group: str) -> None:
    schema = Draft202012Validator(file_schema(group))
    for path in CONFIGS.glob(f"{group}/*.yaml" if group else "train.yaml"):
        faults = [f"{error.json_path}: {error.message}" for error in schema.iter_errors(load(path))]
        assert not faults, (path.name, faults)


@pytest.mark.parametrize(
    ("group", "choice", "key", "wrong"),
    [
        ("model", "mlp", "model.hidden_size", [64]),
        ("model", "mlp", "model.activation", "rely"),
        ("data", "blobs", "data.num_features", "many"),
        ("trainer", "auto", "precision", "33-true"),
        ("trainer", "cpu", "devises", 2),
        ("callbacks", "default", "checkpoint.top_k", "all"),
        ("logger", "tensorboard", "tensorboard.default_hp_metric", "maybe"),
        ("scheduler", "onecycle", "interval", "steps"),
        ("experiment", "mnist_lenet", "trainer.max_epochs", -2),
        ("experiment", "mnist_lenet", "seed", -1),
        ("hydra/sweeper", "optuna", "n_trials", 0),
    ],
)
def test_a_mistake_does_not_fit(group: str, choice: str, key: str, wrong: Any) -> None:
    schema = Draft202012Validator(file_schema(group))
    config = load(CONFIGS / group / f"{choice}.yaml")
    broken = copy.deepcopy(config)
    *above, name = key.split(".")
    node = broken
    for part in above:
        node = node.setdefault(part, {})
    node[name] = wrong
    assert schema.is_valid(config)
    assert not schema.is_valid(broken)


def test_docstrings_are_hints_those_of_the_bases_too() -> None:
    said = descriptions(MLP)
    assert said["hidden_sizes"].startswith("widths of the hidden layers")
    assert "Szegedy" in said["label_smoothing"]


def test_schemas_and_settings_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(editors, "FOLDER", tmp_path / ".schema")
    monkeypatch.setattr(editors, "SETTINGS", tmp_path / ".vscode" / "settings.json")
    editors.SETTINGS.parent.mkdir()
    editors.SETTINGS.write_text('{"editor.rulers": [120]}')
    editors.write_settings(editors.write_schemas())
    assert {path.stem for path in editors.FOLDER.iterdir()} == {"train", *(group.replace("/", "-") for group in GROUPS)}
    settings = yaml.safe_load(editors.SETTINGS.read_text())
    assert settings["editor.rulers"] == [120]
    assert settings["yaml.schemas"]["./.schema/model.json"] == "configs/model/*.yaml"
    editors.SETTINGS.write_text("{} // mine")
    editors.write_settings({})
    assert editors.SETTINGS.read_text() == "{} // mine"
    assert "is no plain JSON" in capsys.readouterr().out
