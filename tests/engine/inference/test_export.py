"""What is exported answers as the model does, at batch sizes that its export never saw."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import export as script
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from safetensors import safe_open
from torch import Tensor, nn

from lab.engine.config.instantiate import instantiate
from lab.engine.inference.export import CHECKED, TRACED, Exported, describe, export, random_inputs
from lab.engine.inference.forward import tensors
from lab.engine.inference.reuse import data_dims
from lab.engine.runs.run import Run
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.export_spec import ExportSpec
from lab.models.gpt import GPT
from lab.models.lenet import LeNet
from lab.models.linear import LinearRegression
from lab.models.rnn import RNNRegressor
from tests.conftest import Compose, fits, run_script, small, with_dims

DATA = ["digits", "linear", "adding", "text"]  # the first that fits a model
# Of layers that the other models have too
LIKE_OTHERS = ("cnn", "gan", "logistic_regression", "mlp", "mlp_regressor", "resnet", "rnn_regressor", "vit")
UNSEEN = [(3, 5), (8, 16)]  # batch sizes, and steps where these are free


def build(model: str, cfg: Compose) -> tuple[Any, dict[str, Any]]:
    """A model that answers nothing trivial: no weight and no statistic is what it starts with."""
    data = next(data for data in DATA if fits(model, data))
    composed = cfg(*small(model, data))
    torch.manual_seed(0)
    built = instantiate(composed.model).eval()
    shift(built)
    return built, data_dims(composed)


def part(model: Any, dims: dict[str, Any] | None = None) -> Exported:
    """What is exported of a model that says so by itself."""
    return describe(model, dims or {}, lambda: pytest.fail("no data is needed"))


def shift(model: nn.Module) -> None:
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = 0.1 * torch.randn_like(value)
                value.add_(noise.abs() if name.endswith("running_var") else noise)


def by_hand(model: Any, x: Tensor) -> list[Tensor]:
    """What the model itself says of `x`, in the words of its own file."""
    with torch.no_grad():
        match type(model).__name__:
            case "GAN":
                return [(model.ema.module if model.ema else model.generator)(x) / 2 + 0.5]
            case "VAE":
                logits, mean, log_var = model(x)
                return [1 / (1 + (-logits).exp()), mean, log_var]
            case name if name.endswith(("Regressor", "LinearRegression")):
                return [model(x) * model.target_std + model.target_mean]
            case _:
                return [model(x)]


def inputs(model: Any, dims: dict[str, Any], batch: int, steps: int) -> Tensor:
    """A batch as the data of the model makes them."""
    draws = torch.Generator().manual_seed(99)
    own = model.hparams
    if "vocab_size" in own:
        return torch.randint(own["vocab_size"], (batch, steps), generator=draws)
    for name, shape in (
        ("latent_dim", (own.get("latent_dim"),)),
        ("image_shape", dims.get("image_shape")),
        ("in_features", (own.get("in_features"),)),
        ("input_size", (steps, own.get("input_size"))),
    ):
        if (name in own or name in dims) and (name, type(model).__name__) != ("latent_dim", "VAE"):
            assert shape is not None
            return torch.randn((batch, *shape), generator=draws)
    raise AssertionError(type(model))


def close(found: Sequence[Any], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(torch.as_tensor(theirs), ours, atol=1e-4, rtol=1e-4)


def run_onnx(path: Path, x: Tensor) -> list[Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    return session.run(None, {given.name: x.numpy()})


@pytest.mark.parametrize(
    "model", [pytest.param(m, marks=pytest.mark.slow) if m in LIKE_OTHERS else m for m in with_dims("model")]
)
def test_every_model_is_exported(model: str, cfg: Compose, tmp_path: Path) -> None:
    built, dims = build(model, cfg)
    exported = part(built, dims)
    assert not {batch for batch, _ in UNSEEN} & {batch for batch, _ in (*CHECKED, TRACED)}
    for to, name in (("onnx", "model.onnx"), ("torch_export", "model.pt2")):
        differences = export(exported, built, to, tmp_path / name, {"says": exported.description})
        assert list(differences) == [batch for batch, _ in CHECKED]
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch, steps in UNSEEN:
        x = inputs(built, dims, batch, steps)
        expected = by_hand(built, x)
        assert float(expected[0].std()) > 1e-3, "it says something"
        with torch.no_grad():
            close(tensors(program(x)), expected)
        close(run_onnx(tmp_path / "model.onnx", x), expected)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["model.onnx", "model.pt2"]


@pytest.mark.parametrize("model", with_dims("model"))
def test_weights_are_written_as_they_are(model: str, cfg: Compose, tmp_path: Path) -> None:
    built, dims = build(model, cfg)
    path = tmp_path / "model.safetensors"
    metadata = {"class": type(built).__name__, "hyperparameters": dict(built.hparams)}
    export(part(built, dims), built, "safetensors", path, metadata)
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["lab"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    again = type(built)(**told["hyperparameters"]).eval()
    again.load_state_dict(weights)
    x = inputs(built, dims, 3, 5)
    for ours, theirs in zip(by_hand(built, x), by_hand(again, x), strict=True):
        torch.testing.assert_close(theirs, ours)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode, "as readable as any other file"


@pytest.mark.parametrize(
    ("cell", "input_mode"), [("elman", "rows"), pytest.param("gru", "pixels", marks=pytest.mark.slow)]
)
def test_recurrent_nets_of_every_kind(cell: Any, input_mode: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = RNNRegressor(2, cell=cell, input_mode=input_mode, hidden_size=5, num_layers=2, bidirectional=True).eval()
    export(part(model), model, "onnx", tmp_path / "m.onnx", {})
    export(part(model), model, "torch_export", tmp_path / "m.pt2", {})
    program = torch.export.load(tmp_path / "m.pt2").module()
    for steps in (1, 23):
        x = torch.randn(4, steps, 2)
        close(run_onnx(tmp_path / "m.onnx", x), by_hand(model, x))
        with torch.no_grad():
            close([program(x)], by_hand(model, x))
    assert len(onnx.load(tmp_path / "m.onnx").graph.node) < 100, "the steps are not written out one by one"


def test_a_program_of_a_recurrent_net_loads_without_this_project(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = RNNRegressor(2, hidden_size=5).eval()
    export(part(model), model, "torch_export", tmp_path / "m.pt2", {})
    x = torch.randn(3, 19, 2)
    torch.save(x, tmp_path / "x.pt")
    probe = (
        "import sys, torch; x = torch.load('x.pt'); y = torch.export.load('m.pt2').module()(x); torch.save(y, 'y.pt')"
    )
    probe += "; assert not [name for name in sys.modules if name.split('.')[0] == 'lab']"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    close([torch.load(tmp_path / "y.pt")], by_hand(model, x))


def test_a_language_model_reads_up_to_its_context(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT(9, context_length=12, embed_dim=16, num_layers=1, num_heads=2, position_encoding="learned").eval()
    export(part(model), model, "onnx", tmp_path / "m.onnx", {})
    for steps in (1, 12):
        x = torch.randint(9, (2, steps))
        close(run_onnx(tmp_path / "m.onnx", x), by_hand(model, x))


def test_large_values_are_held_to_their_own_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LinearRegression(10).eval()
    model.linear.weight.data.normal_()
    model.target_mean.fill_(3e6)
    model.target_std.fill_(1e6)
    export(part(model), model, "onnx", tmp_path / "m.onnx", {})
    x = torch.randn(4, 10)
    np.testing.assert_allclose(run_onnx(tmp_path / "m.onnx", x)[0], by_hand(model, x)[0], rtol=1e-5)


def test_what_differs_is_not_written(tmp_path: Path) -> None:
    class Odd(LeNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (0.01 if torch.compiler.is_exporting() else 0.0)

    model = Odd().eval()
    path = tmp_path / "m.onnx"
    path.write_text("before")
    for to in ("onnx", "torch_export"):
        with pytest.raises(RunFailed, match=r"differs from the model by 0\.01 in logits at batch size 1"):
            export(part(model), model, to, path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_text() == "before"


class Foreign(nn.Module):
    """A model of nobody here, which reads a dictionary and gives one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(9, 4), nn.LSTM(4, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor, scale: Tensor, extra: Tensor | None = None) -> dict[str, Tensor]:
        _, (h, _) = self.lstm(self.embed(tokens).transpose(0, 1))  # (B, T) -> (T, B, 4)
        return {"scores": self.head(h[-1]) * scale, "state": h[-1]}


@pytest.mark.parametrize("to", ["onnx", "torch_export"])
def test_a_foreign_model_is_exported_by_a_batch_of_its_data(to: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Foreign().eval()
    batch = {"tokens": torch.randint(9, (4, 5)), "label": torch.zeros(4), "scale": torch.rand(4, 1)}
    found = describe(model, {}, lambda: batch)
    assert found.inputs == {"tokens": ["batch", 5], "scale": ["batch", 1]}
    assert found.outputs == ["scores", "state"]
    path = tmp_path / f"m.{to}"
    export(found, model, to, path, {})
    given = {"tokens": torch.randint(9, (7, 5)), "scale": torch.rand(7, 1)}
    expected = list(model(**given).values())
    if to == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        close(session.run(["scores", "state"], {name: x.numpy() for name, x in given.items()}), expected)
    else:
        close(tensors(torch.export.load(path).module()(**given)), expected)


def test_lightning_s_example_comes_before_the_data(tmp_path: Path) -> None:
    model = BoringModel()
    model.example_input_array = torch.rand(3, 32)
    found = part(model)
    export(found, model, "onnx", tmp_path / "m.onnx", {})
    x = torch.rand(6, 32)
    close(run_onnx(tmp_path / "m.onnx", x), [model(x)])


@pytest.mark.slow
def test_a_run_is_exported_by_its_command(runs: dict[str, Path]) -> None:
    done = run_script("scripts/export.py", f"run={runs['digits']}", "to=onnx", timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    path = runs["digits"] / "export" / "model.onnx"
    assert f"logits of the classes: {path}" in done.stdout
    assert "at batch size 1" in done.stdout
    assert "at batch size 5" in done.stdout
    x = torch.randn(7, 1, 28, 28)
    close(run_onnx(path, x), by_hand(Run(runs["digits"]).model().eval(), x))
    told = json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["lab"])
    assert told["class"] == "lab.models.lenet.LeNet"
    assert told["hyperparameters"]["channels"] == [6, 16]
    assert told["exports"] == "logits of the classes"


@pytest.mark.parametrize(
    ("to", "suffix"), [pytest.param("torch_export", "pt2", marks=pytest.mark.slow), ("safetensors", "safetensors")]
)
def test_a_run_whose_table_is_gone_is_exported(
    to: str, suffix: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"m.{suffix}"
    script.main([f"run={runs['weights']}", f"out={out}"])
    assert str(out) in capsys.readouterr().out
    if to == "torch_export":
        extra = {"lab.json": ""}
        program = torch.export.load(out, extra_files=extra).module()
        told = json.loads(extra["lab.json"])
        x = torch.randn(6, told["hyperparameters"]["in_features"])
        with torch.no_grad():
            close([program(x)], by_hand(Run(runs["weights"]).model().eval(), x))
    else:
        with safe_open(out, framework="pt") as file:
            told = json.loads(file.metadata()["lab"])
    assert told["preparation"]["columns"] == ["size", "colour=blue", "colour=green", "colour=red", "tame", "born"]
    assert told["preparation"]["target"] == "weight"
    assert len(told["preparation"]["mean"]) == 6


COMMANDS = [
    ([], "to= has no value\nchoices: onnx, torch_export, safetensors"),
    (["to=onxx"], r"to=onxx: no such choice; did you mean onnx\?"),
    (["to=onnx", "out={dir}/m.pt"], r"out=.*m\.pt: \.pt is not written here.*\n.*\.onnx"),
    (["out={dir}/m.onxn"], "to= has no value"),
    (["to=onnx", "out={dir}"], "not written here"),
    (["to=onnx", "out={dir}/nowhere/m.onnx"], "no such folder"),
    (["to=onnx", "data=mnist"], "takes no overrides"),
    (["to=onnx", "chekpoint=last"], r"chekpoint: no such argument; did you mean checkpoint\?"),
    (["to=onnx", "checkpoint=first"], "no checkpoint 'first'"),
    (["to=onnx", "run=nowhere"], "run=nowhere is no run directory"),
    (["onnx"], "'onnx' is no argument"),
]


@pytest.mark.parametrize(("words", "said"), COMMANDS, ids=[" ".join(words) or "nothing" for words, _ in COMMANDS])
def test_wrong_words_are_answered(words: list[str], said: str, runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as told:
        script.main([f"run={runs['digits']}", *(word.format(dir=tmp_path) for word in words)])
    assert len(str(told.value).splitlines()) <= 3
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(UserError, match=r"^to=onnx needs onnxscript: pip install 'lightning-lab\[export\]'.*$") as told:
        script.main([f"run={runs['digits']}", "to=onnx"])
    assert len(str(told.value).splitlines()) == 1


def test_the_shape_of_a_part_is_that_of_its_data() -> None:
    def shape(*sizes: int | None, **spec: Any) -> tuple[int, ...]:
        ((x,), _) = random_inputs(ExportSpec(nn.Identity(), "", sample_shape=sizes, **spec))(3, 5)
        return tuple(x.shape)

    assert shape(None, 2) == (3, 5, 2)
    assert shape(None, max_length=4, vocab_size=3) == (3, 4)
