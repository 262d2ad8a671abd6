"""Configs are completed and checked while they are typed: each names its schema, which the editors' server reads."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from lab.engine.config import editors
from lab.engine.utils.paths import CONFIGS
from tests.language_server import language_server, server_command

SCHEMA = {
    "type": "object",
    "properties": {
        "model": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "_target_": {"const": "lab.models.mlp.MLP"},
                "dropout": {"type": "number", "minimum": 0, "description": "The share of units that are dropped."},
                "activation": {"enum": ["relu", "gelu"]},
            },
        }
    },
}
CONFIG = """\
# @package _global_
# A perceptron of mine.
# yaml-language-server: $schema=../../.schema/model.json
model:
  _target_: lab.models.mlp.MLP
  dropout: 0.1
  activation: relu
"""


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_names_the_schema_of_its_group(path: Path) -> None:
    """The line ends the comment at the file's top: behind `# @package`, which Hydra reads first, and before any key."""
    group = path.parent.relative_to(CONFIGS)
    schema = CONFIGS.parent / ".schema" / f"{'-'.join(group.parts) or 'train'}.json"
    lines = path.read_text().splitlines()
    comment = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert comment[-1:] == [f"# yaml-language-server: $schema={os.path.relpath(schema, path.parent)}"]
    assert sum("$schema" in line for line in lines) == 1


@pytest.mark.slow
def test_an_editor_checks_completes_and_explains(tmp_path: Path) -> None:
    command = server_command()
    if command is None:
        pytest.skip("needs yaml-language-server: npm install yaml-language-server")
    (tmp_path / ".schema").mkdir()
    (tmp_path / ".schema" / "model.json").write_text(json.dumps(SCHEMA))
    folder = tmp_path / "configs" / "model"
    folder.mkdir(parents=True)

    def edited(name: str, old: str = "", new: str = "") -> tuple[Path, str]:
        path, text = folder / f"{name}.yaml", CONFIG.replace(old, new)
        path.write_text(text)
        return path, text

    with language_server(command, tmp_path) as server:
        path, text = edited("right")
        assert server.open(path) == []
        assert "share of units" in server.hover(path, *place(text, "dropout"))
        path, text = edited("wrong_value", "0.1", "high")
        [problem] = server.open(path)
        assert "number" in problem
        path, text = edited("wrong_key", "dropout", "dropuot")
        [problem] = server.open(path)
        assert "dropuot" in problem
        path, text = edited("choice", "relu", "")
        server.open(path)
        assert server.complete(path, *place(text, "  activation: ")) == ["relu", "gelu"]
        path, text = edited("key", "dropout: 0.1", "dro")
        server.open(path)
        assert "dropout" in server.complete(path, *place(text, "  dro"))


@pytest.mark.slow
def test_the_configs_themselves_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = server_command()
    if command is None:
        pytest.skip("needs yaml-language-server: npm install yaml-language-server")
    monkeypatch.setattr(editors, "FOLDER", tmp_path / ".schema")
    editors.write_schemas()
    shutil.copytree(CONFIGS, tmp_path / "configs")
    path = tmp_path / "configs" / "model" / "mlp.yaml"
    text = path.read_text()
    with language_server(command, tmp_path) as server:
        assert server.open(path) == []
        assert "widths of the hidden layers" in server.hover(path, *place(text, "hidden_sizes"))
        for name, wrong in (("activation: relu", "activation: rely"), ("dropout: 0.0", "dropout: 2"), ("l1:", "l3:")):
            broken = path.with_name(f"{wrong[:2]}.yaml")
            broken.write_text(text.replace(name, wrong))
            assert server.open(broken) != [], wrong
        chosen = path.with_name("chosen.yaml")
        chosen.write_text(re.sub(r"activation: .*", "activation: ", text))
        server.open(chosen)
        assert {"relu", "gelu"} <= {*server.complete(chosen, *place(chosen.read_text(), "  activation: "))}
        experiment = tmp_path / "configs" / "experiment" / "mnist_lenet.yaml"
        assert server.open(experiment) == []


def place(text: str, words: str) -> tuple[int, int]:
    """Returns the line and the column at the end of `words`."""
    before = text[: text.index(words) + len(words)]
    return before.count("\n"), len(before.rpartition("\n")[2])
