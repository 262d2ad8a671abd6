"""Run directories and checkpoints from elsewhere run no code; see `test_safety`."""

import ast
import http.server
import pickle
import re
import threading
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lab.engine.checkpointing.weights import read_weights
from lab.engine.config.instantiate import instantiate
from lab.engine.runs.resume import resumed_config
from lab.engine.runs.run import Run
from lab.engine.utils.errors import UserError
from lab.engine.utils.formats import FORMAT
from lab.engine.utils.paths import ROOT
from lab.models.lenet import LeNet
from tests.conftest import SMALL, Compose, run_script
from tests.engine.config.test_security import OPEN, Touch, fill, refused


@pytest.fixture
def run(cfg: Compose, tmp_path: Path) -> Run:
    """A run directory as it may come from elsewhere: the config is good, the checkpoint is hostile."""
    config = cfg("model=lenet", *SMALL)
    directory = tmp_path / "run"
    (directory / ".hydra").mkdir()
    (directory / "checkpoints").mkdir()
    OmegaConf.save(config, directory / ".hydra" / "config.yaml")
    (directory / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {data: digits}}}\n")
    return Run(directory)


def checkpoint() -> dict[str, Any]:
    """A good checkpoint of a LeNet."""
    model = LeNet(image_shape=[1, 28, 28], num_classes=10)
    return {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "format": FORMAT,
        "pytorch-lightning_version": version("pytorch-lightning"),
        "epoch": 0,
        "global_step": 0,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
    }


@pytest.fixture(params=["weights", "hyperparameters", "callbacks", "legacy", "plain", "instantiator"])
def hostile(request: pytest.FixtureRequest, canary: Path, tmp_path: Path) -> Path:
    """A checkpoint that touches the canary when it is unpickled without care, in six ways."""
    content, path, evil = checkpoint(), tmp_path / "hostile.ckpt", Touch(canary)
    if request.param == "weights":
        content["state_dict"]["evil"] = evil
    elif request.param == "callbacks":
        content["callbacks"]["evil"] = evil
    elif request.param == "instantiator":  # plain data, which Lightning before 2.6.4 would have called
        content["hyper_parameters"] |= {
            "_instantiator": "lab.engine.config.instantiate.instantiate",
            "_class_path": "os.system",
        }
    else:
        content["hyper_parameters"]["evil"] = evil
    if request.param == "plain":
        path.write_bytes(pickle.dumps({"hyper_parameters": evil}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=request.param != "legacy")
    return path


def test_run_model_refuses_a_hostile_checkpoint(hostile: Path, run: Run) -> None:
    path = hostile.rename(run.dir / "checkpoints" / "best.ckpt")
    if "_instantiator" in path.read_bytes().decode(errors="replace"):  # of no argument of the model: passed over
        assert type(run.model()) is LeNet
        return
    with pytest.raises(UserError, match=f"^{path}[: ].*") as caught:
        run.model()
    assert len(str(caught.value).splitlines()) == 1


def test_a_good_checkpoint_is_loaded(run: Run) -> None:
    torch.save(checkpoint(), run.dir / "checkpoints" / "best.ckpt")
    assert type(run.model()) is LeNet


@pytest.mark.slow
def test_evaluate_refuses_a_hostile_checkpoint(run: Run, canary: Path) -> None:
    content = checkpoint()
    content["hyper_parameters"]["evil"] = Touch(canary)
    path = run.dir / "checkpoints" / "best.ckpt"
    torch.save(content, path)
    answer = run_script("scripts/evaluate.py", f"run={run.dir}", timeout=120)
    refused(answer.returncode, answer.stderr, f"error: {path}")
    assert "holds code" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model._target_", "os.system"),
        ("model._target_", "lab.models.lenet.LeNet.load_from_checkpoint"),
        ("model._target_", "${oc.env:XDG_TARGET}"),
        ("data.augment", OPEN),
        ("callbacks.evil", OPEN),
        ("callbacks.progress", "${evil}"),
        ("trainer.plugins", [OPEN]),
    ],
)
def test_evaluate_refuses_a_hostile_run_directory(
    key: str, value: Any, run: Run, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_TARGET", "os.system")
    torch.save(checkpoint(), run.dir / "checkpoints" / "best.ckpt")
    path = run.dir / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    OmegaConf.update(config, key, fill(value, tmp_path), force_add=True)
    OmegaConf.update(config, "evil", fill(OPEN, tmp_path), force_add=True)
    OmegaConf.save(config, path)
    answer = run_script("scripts/evaluate.py", f"run={run.dir}", timeout=120)
    refused(answer.returncode, answer.stderr, "is not allowed")


def test_a_config_with_python_s_own_tags_is_no_config(run: Run, canary: Path) -> None:
    (run.dir / ".hydra" / "config.yaml").write_text(f"a: !!python/object/apply:builtins.open [{canary}, w]\n")
    with pytest.raises(Exception, match="could not determine a constructor"):
        _ = run.config


@pytest.fixture
def served(hostile: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The hostile checkpoint's address on a server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # torch keeps what it downloads
    handler = partial(Quiet, directory=str(hostile.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{hostile.name}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("over_http", [False, True])
@pytest.mark.parametrize("stage", ["fit", "test"])
@pytest.mark.parametrize("hostile", ["weights", "hyperparameters", "callbacks", "legacy", "plain"], indirect=True)
def test_the_trainer_refuses_a_hostile_checkpoint(
    over_http: bool, stage: str, hostile: Path, served: str, cfg: Compose
) -> None:
    """With `weights_only=True`, which `test_every_file_is_loaded_as_data` finds wherever the project calls it."""
    config = cfg("model=lenet", *SMALL, "trainer=cpu", "trainer.max_epochs=1", "logger=none", "callbacks=none")
    model = instantiate(config.model, optimizer=instantiate(config.optimizer))
    trainer = instantiate(config.trainer, logger=False)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        getattr(trainer, stage)(
            model, datamodule=instantiate(config.data), ckpt_path=served if over_http else hostile, weights_only=True
        )


@pytest.mark.parametrize("hostile", ["weights", "hyperparameters", "legacy", "plain"], indirect=True)
def test_hostile_weights_are_refused(hostile: Path) -> None:
    with pytest.raises(UserError, match=f"{hostile} holds code"):
        read_weights(hostile)


@pytest.mark.slow
def test_the_command_says_which_file_holds_code(canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"conv1.weight": Touch(canary)}, path)
    answer = run_script(
        "src/train.py", "model=resnet", f"weights={path}", f"paths.log_dir={tmp_path}/logs",
        f"paths.data_dir={tmp_path}", *SMALL, "trainer=cpu", timeout=120,
    )  # fmt: skip
    assert answer.returncode == 2
    assert f"{path} holds code" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_every_file_is_loaded_as_data() -> None:
    """Every call in the project that can unpickle says `weights_only=True`, and nothing imports pickle to load with."""
    calls = 0
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("scripts/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            assert not re.search(r"(pickle|marshal|dill|shelve|joblib)\.(loads?|Unpickler|open)$", name), (path, name)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("allow_pickle", "False") == "False", (path, name)
            reads = re.search(r"(torch\.load|load_from_checkpoint|load_checkpoint)$", name)
            trains = re.search(r"rainer\.(fit|test|validate|predict)$", name)
            if reads or (trains and "ckpt_path" in keywords):
                assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"
                calls += 1
    assert calls >= 4


@pytest.mark.parametrize("argument", ["resume", "attach"])
def test_a_hostile_config_is_not_trained_with(argument: str, run: Run, canary: Path, tmp_path: Path) -> None:
    torch.save(checkpoint(), run.dir / "checkpoints" / "last.ckpt")
    run.write("run.json", {"format": FORMAT, "status": "preempted"})
    path = run.dir / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    OmegaConf.update(config, "callbacks.evil", fill(OPEN, tmp_path), force_add=True)
    OmegaConf.save(config, path)
    answer = run_script("src/train.py", f"{argument}={run.dir}", timeout=120)
    refused(answer.returncode, answer.stderr, "is not allowed")


@pytest.mark.parametrize("choice", ["../../evil", "no_such_file", "[digits,{a:b}]"])
def test_a_choice_that_is_recorded_is_one_of_ours(choice: str, run: Run, cfg: Compose) -> None:
    """Choices compose nothing but to see what another one would change, and none that is not in configs/."""
    torch.save(checkpoint(), run.dir / "checkpoints" / "last.ckpt")
    run.write("run.json", {"format": FORMAT, "status": "preempted"})
    node = {"hydra": {"runtime": {"choices": {"data": "digits", "model": "lenet", "trainer": choice}}}}
    OmegaConf.save(OmegaConf.create(node), run.dir / ".hydra" / "hydra.yaml")
    resumed_config(cfg(f"resume={run.dir}", "changes=['callbacks=none']"))
    with pytest.raises(UserError, match="configs/ has it not"):
        resumed_config(cfg(f"resume={run.dir}", "changes=['trainer=cpu']"))
