"""What every architecture keeps, found by globbing the configs."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from lab.engine.config.instantiate import instantiate
from lab.engine.config.validate import validate
from lab.engine.training.build import build
from lab.engine.training.model import compile_layers
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import CONFIGS, ROOT
from lab.models.lenet import LeNet
from lab.models.tasks.classification import Classifier
from lab.models.tasks.regression import Regressor
from tests.conftest import OFFERS, SMALL_DATA, Compose, fits, small, with_dims

MODELS = with_dims("model")
DATA = with_dims("data")
SUPERVISED = [model for model in MODELS if model not in ("vae", "gan")]  # they have tests of their own for this


LIKE_DIGITS = ("mnist", "image_folder", "torchvision")
PAIRS = [
    pytest.param(model, data, marks=[pytest.mark.slow] if data in LIKE_DIGITS and model != "lenet" else [])
    for model in MODELS
    for data in DATA
    if fits(model, data)
]
NUMBERS = [(model, "csv") for model in MODELS if fits(model, "linear")]  # a table whose target is a number


def test_every_model_fits_some_data_and_every_data_some_model() -> None:
    assert all(any(fits(model, data) for data in DATA) for model in MODELS)
    assert all(any(fits(model, data) for model in MODELS) for data in DATA)


@pytest.mark.parametrize(("model", "data"), [*NUMBERS, *PAIRS])
def test_every_fitting_pair_takes_a_step_of_each_stage(model: str, data: str, cfg: Compose) -> None:
    if data == "mnist" and "MNIST_MIRROR" not in os.environ:
        pytest.skip("needs the files of MNIST: set MNIST_MIRROR to where they are")
    composed = cfg(*small(model, data), "debug=fast", "logger=none")
    validate(composed)
    module, datamodule, trainer = build(composed)
    before = [p.detach().clone() for p in module.parameters()]
    trainer.fit(module, datamodule=datamodule)
    assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    [metrics] = trainer.test(module, datamodule=datamodule, verbose=False)
    assert metrics or (model == "gan" and data in ("mnist", "huggingface"))  # which goes without its judge here
    assert all(math.isfinite(value) for value in metrics.values())
    if isinstance(module, Classifier):
        assert {"test/loss", "test/acc", "test/precision", "test/recall", "test/f1"} <= set(metrics)
    if isinstance(module, Regressor):
        assert {"test/loss", "test/mse", "test/rmse", "test/mae", "test/r2"} <= set(metrics)


@pytest.fixture(scope="module")
def data_nodes(data_dir: Path) -> dict[str, tuple[Any, Any]]:
    """What each dataset's file says of data and dims, composed once."""
    nodes = {}
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for data in DATA:
            composed = compose("train", [f"paths.data_dir={data_dir}", f"data={data}", *SMALL_DATA.get(data, [])])
            plain: Any = OmegaConf.to_container(composed, resolve=False)
            nodes[data] = (plain["data"], plain["dims"])
    return nodes


@pytest.mark.parametrize("model", MODELS)
def test_every_other_pair_is_refused_by_name(model: str, data_nodes: dict[str, tuple[Any, Any]], cfg: Compose) -> None:
    composed = cfg(f"model={model}")
    known = [data for data in DATA if data not in OFFERS]  # whether others fit depends on the file
    for data, (node, dims) in data_nodes.items():
        with open_dict(composed):
            composed.data, composed.dims = node, dims
        if fits(model, data):
            validate(composed)
            continue
        with pytest.raises(UserError, match=f"model={model} .* data={data}") as answer:
            validate(composed)
        named = set(re.findall(r"\w+", str(answer.value)))
        assert named >= {d for d in known if fits(model, d)} | {m for m in MODELS if fits(m, data)}


SLOW = ("vit", "resnet", "rnn_regressor", "gpt")


@pytest.mark.parametrize("model", [pytest.param(m, marks=[pytest.mark.slow] * (m in SLOW)) for m in SUPERVISED])
def test_every_model_learns_one_batch_by_heart(model: str, cfg: Compose) -> None:
    data = next(d for d in DATA if fits(model, d) and d not in OFFERS)
    composed = cfg(*small(model, data), "callbacks=none", "logger=none")
    torch.manual_seed(0)
    module, datamodule = instantiate(composed.model), instantiate(composed.data)
    datamodule.prepare_data()
    datamodule.setup("fit")
    batch = next(iter(datamodule.train_dataloader()))
    optimizer = torch.optim.AdamW(
        module.parameters(), lr={"linear_regression": 0.1, "rnn_regressor": 1e-2}.get(model, 3e-3)
    )
    losses = []
    for _ in range(400):
        loss = module.training_step(batch, 0)["loss"]
        losses.append(loss.item())
        if loss < 0.05:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}")


@pytest.fixture(scope="module")
def trained(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Every model, trained a little: the test figures of its best checkpoint, by its run directory."""
    figures = {}
    for model in MODELS:
        data = next(d for d in DATA if fits(model, d) and d not in OFFERS)
        run = tmp_path_factory.mktemp(model)
        (run / ".hydra").mkdir()
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose(
                "train",
                [
                    f"paths.data_dir={data_dir}",
                    f"paths.log_dir={run}",
                    f"paths.run_dir={run}",
                    *small(model, data),
                    "trainer.max_epochs=1",
                    "trainer.limit_train_batches=2",
                    "trainer.limit_val_batches=2",
                    "trainer.limit_test_batches=2",
                    "logger=none",
                ],
            )
        OmegaConf.save(composed, run / ".hydra" / "config.yaml")
        module, datamodule, trainer = build(composed)
        trainer.fit(module, datamodule=datamodule, weights_only=True)
        best = run / "checkpoints" / "best.ckpt"
        [metrics] = trainer.test(module, datamodule=datamodule, ckpt_path=best, weights_only=True, verbose=False)
        figures[str(run)] = dict(metrics)
    return figures


@pytest.mark.slow
def test_every_checkpoint_is_plain(trained: dict[str, dict[str, float]]) -> None:
    for run in trained:
        kept = torch.load(Path(run) / "checkpoints" / "best.ckpt", weights_only=True)
        assert not {"optimizer", "scheduler"} & set(kept["hyper_parameters"])


@pytest.mark.slow
def test_every_checkpoint_gives_its_figures_again_in_a_fresh_process(trained: dict[str, dict[str, float]]) -> None:
    code = """
import json, sys
import pytorch_lightning as pl
from lab.engine.utils.console import quiet
from lab.engine.runs.run import Run
quiet()
figures = {}
for path in sys.argv[1:]:
    run = Run.open(path)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", callbacks=run.test_callbacks(), limit_test_batches=2, **options)
    [figures[path]] = trainer.test(run.model(), run.datamodule(), verbose=False)
print(json.dumps(figures))
"""
    fresh = subprocess.run(
        [sys.executable, "-c", code, *trained],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT / "src",
        check=False,
    )
    assert fresh.returncode == 0, fresh.stderr
    again = json.loads(fresh.stdout.splitlines()[-1])
    for run, figures in trained.items():
        assert again[run] == pytest.approx(figures, rel=1e-5, abs=1e-7), run


@pytest.mark.parametrize("model", MODELS)
def test_compiling_leaves_no_layer_out(model: str, cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: set[nn.Module] = set()
    monkeypatch.setattr(nn.Module, "compile", lambda layer, **_: compiled.update(layer.modules()))
    data = next(d for d in DATA if fits(model, d) and d not in OFFERS)
    module = instantiate(cfg(*small(model, data)).model)
    compile_layers(module)
    for name, layer in module.named_modules():
        if not list(layer.children()) and list(layer.parameters()) and "ema" not in name:
            assert layer in compiled, name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_layers_give_the_same_and_keep_their_names() -> None:
    torch.manual_seed(0)
    model = LeNet()
    images = torch.randn(4, 1, 28, 28)
    expected, names = model(images), list(model.state_dict())
    compile_layers(model)
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-4)
    assert list(model.state_dict()) == names


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_every_layer_is_compiled_for_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deep(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(size, size + 1) for size in range(2, 8))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    compiled: list[Any] = []

    def note(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph

    compile_module = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda layer, mode, **options: compile_module(layer, backend=note, **options)
    )
    model = Deep()
    compile_layers(model)
    for stage in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with stage():
            model(torch.zeros(3, 2))
    assert len(compiled) == 6 * 3
