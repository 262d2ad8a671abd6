"""Every config composes, and every wrong command line gets a short answer that says what is wrong."""

import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pytorch_lightning import Trainer

from lab import config
from lab.build import instantiate
from lab.compose import CONFIGS, ROOT
from lab.config import check
from lab.errors import UserError
from tests.conftest import Compose, choices, run_script

GROUPS = sorted(
    path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name not in ("hydra", "paths", "sweep")
)
ALL = [(group, choice) for group in GROUPS for choice in choices(group)]


@pytest.mark.parametrize(("group", "choice"), ALL)
def test_every_choice_composes_and_is_right(
    group: str, choice: str, cfg: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "count_gpus", lambda: 8)
    composed = cfg(f"{group}={choice}")
    check(composed)
    OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("choice", choices("sweep"))
def test_every_sweep_names_keys_that_exist(choice: str, cfg: Compose) -> None:
    space = OmegaConf.load(CONFIGS / "sweep" / f"{choice}.yaml").hydra.sweeper.params
    composed = cfg()
    for key in space:
        assert OmegaConf.select(composed, str(key)) is not None, key


@pytest.mark.parametrize("group", ["data", "model", "optimizer", "trainer", "callbacks", "logger"])
def test_every_target_is_built(group: str, cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytorch_lightning.accelerators.CUDAAccelerator.is_available", lambda: False)
    for choice in choices(group):
        if choice in ("wandb", "mlflow", "gpu", "ddp"):  # an extra or a device that may be missing
            continue
        node = cfg(f"{group}={choice}")[group]
        for part in [node] if node is None or "_target_" in node else node.values():
            instantiate(part)


def test_trainer_fields_are_those_of_lightning(cfg: Compose) -> None:
    fields = set(inspect.signature(Trainer.__init__).parameters) - {"self", "logger", "callbacks"}
    assert set(cfg().trainer) - {"_target_"} <= fields
    assert fields - set(cfg().trainer) <= {"plugins", "model_registry", "enable_autolog_hparams"}


def test_help_shows_groups_and_commands() -> None:
    shown = run_script("src/train.py", "--help", timeout=20)
    assert shown.returncode == 0
    for group in ("data: ", "model: ", "optimizer: ", "trainer: ", "experiment: "):
        assert group in shown.stdout
    assert shown.stdout.count("python src/train.py") >= 5


WRONG = [
    (["modle=mlp"], ["modle", "model"]),
    (["model=lenett"], ["model=lenett", "did you mean lenet?", "choices:"]),
    (["optimizer.lrr=1"], ["optimizer.lrr", "did you mean optimizer.lr?"]),
    (["optimizer.lr=abc"], ["optimizer.lr=abc", "a number"]),
    (["optimizer.lr="], ["optimizer.lr=", "a number"]),
    (["data.batch_size=12.5"], ["data.batch_size=12.5", "a whole number"]),
    (["fit=maybe"], ["fit=maybe", "true or false"]),
    (["seed=null"], ["seed", "expected"]),
    (["model.hidden_sizes=3"], ["model.hidden_sizes=3", "a list"]),
    (["data.num_val=???"], ["data.num_val"]),
    (["model=mlp", "model.activation=rellu"], ["model.activation=rellu", "did you mean relu?"]),
    (["+model.chanels=[1,2]"], ["model.chanels", "did you mean channels?"]),
    (["trainer.precision=bf16mixed"], ["trainer.precision=bf16mixed", "did you mean bf16-mixed?"]),
    (["trainer.accelerator=gpuu"], ["trainer.accelerator=gpuu", "did you mean gpu?"]),
    (["~data.batch_size"], ["data.batch_size", "needs one"]),
    (["foo"], ["'foo'", "key=value"]),
    (["model.hidden_sizes=[1"], ["no override"]),
    (["~dims.image"], ["model=lenet does not fit data=digits", "dims.image", "data that fits lenet: "]),
    (["paths.log_dir=/dev/null/logs"], ["/dev/null", "paths.log_dir"]),
]


@pytest.mark.parametrize(("overrides", "said"), WRONG, ids=[" ".join(overrides) for overrides, _ in WRONG])
def test_wrong_command_lines_are_answered(overrides: list[str], said: list[str], tmp_path: Path) -> None:
    here = [] if any(word.startswith("paths.log_dir") for word in overrides) else [f"paths.log_dir={tmp_path}"]
    answer = run_script("src/train.py", *here, *overrides, timeout=20)
    assert answer.returncode == 2
    for words in said:
        assert words in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) <= 10
    assert not list(tmp_path.iterdir()), "a wrong command leaves nothing behind"


def test_no_gpu_where_one_was_asked_for(cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "count_gpus", lambda: 0)
    with pytest.raises(UserError, match="0 GPUs"):
        check(cfg("trainer=gpu"))
    monkeypatch.setattr(config, "count_gpus", lambda: 1)
    check(cfg("trainer=gpu"))
    with pytest.raises(UserError, match="1 GPUs"):
        check(cfg("trainer=gpu", "trainer.devices=2"))


def test_configuration_errors_do_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['train.py', 'optimizer.lr=abc']\n"
        "import runpy\n"
        f"try: runpy.run_path({str(ROOT / 'src' / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "assert 'torch' not in sys.modules and 'pytorch_lightning' not in sys.modules\n"
    )
    script = tmp_path / "probe.py"
    script.write_text(code)
    answer = run_script(str(script), timeout=20)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.open", "torch.load", "lab.figures.Image.open", "lab.runs.subprocess.run"]
)
def test_only_allowed_targets_are_built(target: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    node = OmegaConf.create(
        {"nested": [{"_target_": target, "_args_": [f"touch {canary}"]}], "_target_": "lab.models.LeNet"}
    )
    with pytest.raises(UserError, match="is not allowed"):
        instantiate(node)
    assert not canary.exists()


def test_dims_are_what_a_batch_holds(cfg: Compose) -> None:
    for choice in choices("data"):
        composed = cfg(f"data={choice}")
        if choice == "mnist":
            continue  # tests/data/test_mnist.py
        composed = cfg(f"data={choice}", "data.num_samples=300", "data.num_val=50", "data.batch_size=32")
        data = instantiate(composed.data)
        data.prepare_data()
        data.setup("fit")
        inputs, labels = next(iter(data.train_dataloader()))
        assert list(inputs.shape[1:]) == list(composed.dims.image)
        assert inputs[0].numel() == composed.dims.features
        assert set(labels.tolist()) <= set(range(composed.dims.classes))
