"""Weights of other models: read from anybody's file, renamed, held against the model, and where they came from."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.demos.boring_classes import BoringModel
from safetensors.torch import save_file
from torch import nn

from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.checkpointing.weights import load_weights, read_weights, rename
from lab.engine.runs.reproduce import changes_since
from lab.engine.runs.resume import resumed_config
from lab.engine.runs.run import Run
from lab.engine.training.build import build
from lab.engine.training.train import train
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import checksum
from lab.models.lenet import LeNet
from lab.models.mlp import MLP
from tests.conftest import SMALL, Compose, accepted, refusal, run_script

RUN = [*SMALL, "data.batch_size=50", "trainer.max_epochs=1", "logger=none", "optimizer.lr=1e-3"]


def start(config: DictConfig) -> Run:
    """A run, in a directory that Hydra would have made."""
    run = Run(Path(config.paths.run_dir))
    (run.dir / ".hydra").mkdir(parents=True, exist_ok=True)
    (run.dir / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {}}}\n")
    (run.dir / ".hydra" / "overrides.yaml").write_text("[]\n")
    train(config)
    return run


class Theirs(BoringModel):
    """Somebody's model, with hyperparameters of many kinds."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.norm = nn.BatchNorm1d(2)


@pytest.fixture
def theirs() -> Theirs:
    torch.manual_seed(1)
    return Theirs(hidden=[3, 4], name="x", rates={"lr": 0.1}, nothing=None)


def written(model: Theirs, kind: str, folder: Path) -> Path:
    """A file as it may come from elsewhere."""
    path = folder / f"theirs.{kind.partition(' ')[0]}"
    if kind == "ckpt":
        trainer = pl.Trainer(accelerator="cpu", max_epochs=0, logger=False, enable_checkpointing=False)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(path)
    elif kind == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=kind == "pt")
    return path


@pytest.mark.parametrize("kind", ["ckpt", "safetensors", "pt", "pth of 2019"])
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*max_epochs")
def test_anybodys_file_is_read(kind: str, theirs: Theirs, tmp_path: Path) -> None:
    path = written(theirs, kind, tmp_path)
    model = Theirs()
    assert not torch.equal(model.layer.weight, theirs.layer.weight)
    load_weights(model, path, {})
    for name, value in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    if kind == "ckpt":
        assert torch.load(path, weights_only=True)["hyper_parameters"]["rates"] == {"lr": 0.1}


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("x.ckpt", b"", "it is empty|cut short"),
        ("x.ckpt", b"not a checkpoint", "cut short"),
        ("x.safetensors", b"not a checkpoint", "no safetensors file"),
    ],
)
def test_another_kind_of_file_is_refused(name: str, content: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{tmp_path / name}.*({named})"):
        read_weights(tmp_path / name)


def test_a_file_without_weights_and_one_that_is_damaged_are_refused(theirs: Theirs, tmp_path: Path) -> None:
    torch.save({"model": theirs.state_dict(), "step": 3}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"no weights.* it holds model, step"):
        read_weights(tmp_path / "a.pt")
    path = written(theirs, "pt", tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=str(path)):
        read_weights(path)


def test_prefixes_are_whole_parts_of_a_name_and_the_longest_counts(tmp_path: Path) -> None:
    one = torch.zeros(1)
    state = {"model.net.0.w": one, "model.network.w": one, "head.w": one}
    assert [*rename(state, {"model.net": "body", "model": ""}, tmp_path)] == ["body.0.w", "network.w", "head.w"]
    assert [*rename(state, {"model.": ".", "head": "fc"}, tmp_path)] == ["net.0.w", "network.w", "fc.w"]
    assert [*rename({"w": one}, {".": "net"}, tmp_path)] == ["net.w"]
    with pytest.raises(UserError, match=r"weights\.map: no entry .* begins with modell; did you mean model"):
        rename(state, {"modell": "net"}, tmp_path)


def test_what_does_not_fit_is_listed_with_both_shapes(tmp_path: Path) -> None:
    torch.save(LeNet(num_classes=7).state_dict() | {"extra.weight": torch.zeros(2)}, tmp_path / "seven.pt")
    model = LeNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as refused:
        load_weights(model, tmp_path / "seven.pt", {})
    said = str(refused.value)
    for part in (
        f"weights.path={tmp_path}/seven.pt", "8 of the 10", "LeNet", "2 of another shape",
        "head.4.weight: (7, 84) in the file, (10, 84) in the model", "head.4.bias: (7,) in the file",
        "1 unknown to the model", "extra.weight", "weights.strict=false", "weights.map=",
    ):  # fmt: skip
        assert part in said
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "nothing was taken"
    load_weights(model, tmp_path / "seven.pt", {}, strict=False)
    taken = torch.load(tmp_path / "seven.pt", weights_only=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith("head.4") else taken[name]), name


def test_a_long_list_is_cut_and_nothing_in_common_is_refused_always(tmp_path: Path) -> None:
    torch.save(MLP().state_dict(), tmp_path / "mlp.pt")
    with pytest.raises(UserError, match="0 of the 10") as refused:
        load_weights(LeNet(), tmp_path / "mlp.pt", {}, strict=False)
    assert "10 missing" in str(refused.value)
    assert "  and 5 more" in str(refused.value)


@pytest.fixture
def source(cfg: Compose, tmp_path: Path) -> Run:
    return start(cfg(*RUN, f"paths.run_dir={tmp_path}/source"))


def test_a_run_begins_with_another_runs_weights_at_step_0(source: Run, cfg: Compose, tmp_path: Path) -> None:
    best = source.checkpoint()
    config = cfg(*RUN, "trainer.max_epochs=2", f"weights.path={best}", f"paths.run_dir={tmp_path}/tuned", "seed=1")
    model, _, _ = build(config)
    assert_same(model.state_dict(), read_checkpoint(best)["state_dict"])
    run = start(config)
    assert run.metadata["weights"] == {"file": str(best), "run": "source", "checksum": checksum(best)}
    assert run.metrics["cost/steps"] == 20, "those of the other run are not counted"

    origin = run.metadata["weights"]
    best.unlink()  # a resumed run does not ask for it
    run = start(resumed_config(cfg(f"resume={run.dir}", "changes=['trainer.max_epochs=3']")))
    assert run.metadata["weights"] == origin
    assert run.metrics["cost/steps"] == 30
    assert any(str(best) in line for line in changes_since(run.dir, run.metadata))


def test_other_weights_beside_resume_are_refused(source: Run, cfg: Compose, tmp_path: Path) -> None:
    path = source.checkpoint()
    run = start(cfg(*RUN, f"weights.path={path}", f"paths.run_dir={tmp_path}/tuned"))
    longer = "trainer.max_epochs=2"
    same = [f"weights={source.dir}", longer]
    other = refusal(f"resume={run.dir}", f"weights={source.checkpoint('last')}", longer)
    assert "weights.path was" in other
    assert "last.ckpt" in other
    assert "weights.strict" in refusal(f"resume={run.dir}", "weights.strict=false", longer)
    assert "weights.path was None" in refusal(f"resume={source.dir}", *same)
    accepted(f"resume={run.dir}", *same)


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_layers_of_configure_model_are_made_first(tmp_path: Path) -> None:
    class Late(BoringModel):
        def configure_model(self) -> None:
            if not hasattr(self, "more"):
                self.more = nn.Linear(2, 3)

    torch.manual_seed(0)
    made = Late()
    made.configure_model()
    torch.save(made.state_dict(), tmp_path / "late.pt")
    model = Late()
    load_weights(model, tmp_path / "late.pt", {})
    assert torch.equal(model.more.weight, made.more.weight)


@pytest.mark.slow
def test_a_sweep_over_weights_and_the_answers_of_the_command(source: Run, data_dir: Path, tmp_path: Path) -> None:
    paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}/logs"]
    small = [*RUN, "trainer.limit_train_batches=2", "callbacks.progress=null"]
    both = f"weights={source.dir},{source.checkpoint('last')}"
    done = run_script("src/train.py", "-m", both, *small, *paths)
    assert done.returncode == 0, done.stderr
    runs = Run.list(tmp_path / "logs")
    assert {Path(run.metadata["weights"]["file"]).name for run in runs} == {"best.ckpt", "last.ckpt"}

    other = run_script("src/train.py", f"weights={source.dir}", "model=mlp", *small, *paths)
    assert other.returncode == 2
    assert "unknown to the model" in other.stderr
    assert "Traceback" not in other.stderr

    evaluated = run_script("scripts/evaluate.py", f"run={runs[0].dir}")
    assert evaluated.returncode == 0, evaluated.stderr
