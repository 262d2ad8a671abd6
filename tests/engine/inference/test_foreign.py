"""Models and data that nobody here wrote are predicted, exported and compared, from a run directory alone."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evaluate
import export
import onnxruntime
import predict as script
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.demos.boring_classes import BoringDataModule, BoringDataModuleNoLen, BoringModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lab.engine.analysis.comparison import compare
from lab.engine.analysis.run_record import find_runs
from lab.engine.config.compose import compose
from lab.engine.inference.export import describe
from lab.engine.inference.export import export as write_export
from lab.engine.inference.forward import forward_arguments, named_outputs
from lab.engine.inference.predict import predict, to_columns
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.formats import FORMAT

DEMOS = "pytorch_lightning.demos.boring_classes"


def record(folder: Path, seed: int) -> Path:
    """A run of Lightning's demo as it leaves it: no objective, no dims, no optimizer of ours, no hyperparameters."""
    pl.seed_everything(seed, verbose=False)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(BoringModel(), datamodule=BoringDataModule())
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(saved | {"format": FORMAT}, folder / "checkpoints" / "last.ckpt")
    config: Any = OmegaConf.to_container(compose(["trainer=cpu", "logger=none"]), resolve=False)
    config |= {
        "data": {"_target_": f"{DEMOS}.BoringDataModule"},
        "model": {"_target_": f"{DEMOS}.BoringModel"},
        "dims": {},
        **dict.fromkeys(("objective", "optimizer", "scheduler")),
        "callbacks": {},
        "seed": seed,
    }
    config["paths"]["run_dir"] = str(folder)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(["model=boring", "data=boring"]))
    choices = {"data": "boring", "model": "boring"}
    (folder / ".hydra" / "hydra.yaml").write_text(json.dumps({"hydra": {"runtime": {"choices": choices}}}))
    (folder / "run.json").write_text(json.dumps({"format": FORMAT, "status": "completed", "seed": seed}))
    (folder / "metrics.json").write_text(json.dumps({"cost/seconds": 1.0 + seed, "test_loss": 0.5 + seed}))
    return folder


@pytest.fixture(scope="module")
def boring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("foreign") / "run", 0)


def weights(run: Path) -> BoringModel:
    model = BoringModel().eval()
    model.load_state_dict(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    return model


def test_a_run_of_lightning_s_demo_is_predicted(boring: Path, tmp_path: Path) -> None:
    for split in ("test", "predict"):
        script.main([f"run={boring}", "checkpoint=last", f"in={split}", f"out={tmp_path}/p.csv"])
        with (tmp_path / "p.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["index", "output_1", "output_2"]
        assert [row["index"] for row in rows] == [str(i) for i in range(64)]
    with pytest.raises(UserError, match="has no predict_inputs"):
        script.main([f"run={boring}", "checkpoint=last", f"in={tmp_path}/p.csv"])
    with pytest.raises(UserError, match="nothing for the run's model BoringModel"):
        script.main([f"run={boring}", "checkpoint=last", "prompt=a"])


@pytest.mark.parametrize(("to", "suffix"), [("onnx", "onnx"), ("torch_export", "pt2"), ("safetensors", "safetensors")])
def test_a_run_of_lightning_s_demo_is_exported(to: str, suffix: str, boring: Path, tmp_path: Path) -> None:
    out = tmp_path / f"m.{suffix}"
    export.main([f"run={boring}", "checkpoint=last", f"to={to}", f"out={out}"])
    x, model = torch.rand(9, 32), weights(boring)
    with torch.no_grad():
        if to == "onnx":
            session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
            torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), model(x))
        elif to == "torch_export":
            torch.testing.assert_close(torch.export.load(out).module()(x), model(x))


def test_a_run_of_lightning_s_demo_is_evaluated(boring: Path) -> None:
    evaluate.main([f"run={boring}", "checkpoint=last"])
    assert (boring / "evaluation-boring-last.json").is_file()


def test_runs_without_an_objective_are_compared(tmp_path: Path) -> None:
    for seed in (0, 1):
        record(tmp_path / str(seed), seed)
    comparison = compare(find_runs([str(tmp_path)]))
    assert (comparison.metric, comparison.mode, comparison.objectives) == ("test_loss", "min", [])
    [row] = comparison.rows
    assert row.group.name == "boring on boring"
    assert row.values["test_loss mean"] == 1.0
    assert compare(find_runs([str(tmp_path)]), "cost/seconds").metric == "cost/seconds"
    with pytest.raises(UserError, match="did you mean test_loss"):
        compare(find_runs([str(tmp_path)]), "test_los")


class Pairs(Dataset[Any]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"pixels": torch.full((2, 3), float(i)), "label": i % 2, "meta": {"name": f"sample {i}"}}


class Data(pl.LightningDataModule):
    """Dictionaries, two loaders, one of them without a length, and batches that are changed on the device."""

    def test_dataloader(self) -> list[Any]:
        return [DataLoader(Pairs(), batch_size=4), DataLoader(Pairs(), batch_size=3)]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer is not None
        return batch | {"pixels": batch["pixels"] + 1}


class Sums(pl.LightningModule):
    def forward(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return pixels.sum((1, 2)), {"double": 2 * pixels, "flag": pixels[:, 0, 0] > 5}


class Named(Sums):
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return {"name": batch["meta"]["name"], "sum": batch["pixels"].sum((1, 2))}


def test_batches_of_any_nesting_and_several_loaders() -> None:
    table, answers = predict(Sums(), Data())
    assert table.columns == ["index", "output_1", *(f"double_{i + 1}" for i in range(6)), "flag", "loader"]
    assert answers == ["output_1"]
    assert table["output_1"].to_list() == [6.0 * (i + 1) for i in range(10)] * 2
    assert table["flag"][:10].to_list() == [i + 1 > 5 for i in range(10)]
    assert table["loader"].to_list() == [0] * 10 + [1] * 10
    table, answers = predict(Named(), Data())
    assert table["name"][:10].to_list() == [f"sample {i}" for i in range(10)]
    assert answers == ["name"]
    with pytest.raises(UserError, match=r"in=val: the run's data \(Data\) has no val_dataloader"):
        predict(Sums(), Data(), "val")


def test_batches_are_changed_as_the_model_says_where_it_has_no_predict_step() -> None:
    class Scaled(Sums):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch | {"pixels": batch["pixels"] * 10}

    class Plain(pl.LightningDataModule):
        def test_dataloader(self) -> Any:
            return Data.test_dataloader(self)  # type: ignore[arg-type]

    with pytest.warns(UserWarning, match="on_before_batch_transfer"):  # Lightning says whose is called
        table, _ = predict(Scaled(), Plain())
    assert table["output_1"][:10].to_list() == [60.0 * i for i in range(10)]


def test_a_model_with_loaders_of_its_own_is_predicted() -> None:
    class Own(Sums):
        def setup(self, stage: str) -> None:
            self.stages = [*getattr(self, "stages", []), stage]

        def test_dataloader(self) -> Any:
            assert "test" in self.stages
            return DataLoader(Pairs(), batch_size=4)

    table, _ = predict(Own(), None)
    assert table["output_1"].to_list() == [6.0 * i for i in range(10)]
    with pytest.raises(UserError, match=r"in=val: the run's model \(Own\) has no val_dataloader"):
        predict(Own(), None, "val")


def test_a_model_without_forward_is_refused() -> None:
    class Bare(pl.LightningModule):
        pass

    with pytest.raises(UserError, match="Bare has no predict_step and no forward"):
        predict(Bare(), Data())
    with pytest.raises(UserError, match="Bare has no forward and no export_wrapper"):
        describe(Bare(), {}, lambda: None)


def test_what_cannot_be_traced_is_refused_in_words(tmp_path: Path) -> None:
    class Branches(pl.LightningModule):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    model = Branches().eval()
    part = describe(model, {}, lambda: torch.ones(4, 2))
    with pytest.raises(RunFailed, match=r"torch\.export cannot trace what forward gives"):
        write_export(part, model, "torch_export", tmp_path / "m.pt2", {})
    assert not list(tmp_path.iterdir())


def test_a_model_may_say_by_itself_which_sample_a_row_is() -> None:
    class Counted(Sums):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
            names = batch["meta"]["name"]
            return {"path": [Path(name) for name in names], "index": [name[7:] for name in names], "half": None}

    table, _ = predict(Counted(), Data())
    assert table["index"][:10].to_list() == [str(i) for i in range(10)]
    assert table["path"][:2].to_list() == ["sample 0", "sample 1"]


def test_loaders_without_a_length() -> None:
    table, _ = predict(BoringModel(), BoringDataModuleNoLen(), "train")
    assert len(table) > 0


def test_targets_stay_out_of_forward() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
            return x

    assert forward_arguments(Net(), ("x", "y")) == (("x",), {})
    assert forward_arguments(Net(), ["x", "lengths", "y"]) == (("x",), {})
    assert forward_arguments(Net(), {"x": 1, "y": 2}) == ((), {"x": 1})
    assert forward_arguments(Net(), {"z": 1}) == (({"z": 1},), {})

    class Whole(nn.Module):
        def forward(self, batch: Any) -> Any:
            return batch

    for batch in (("x", "y"), {"batch": 1}, "x"):
        assert forward_arguments(Whole(), batch) == ((batch,), {})


WRONG: list[tuple[Any, str]] = [
    (torch.tensor(1.0), "output: one number for a whole batch"),
    ({"a": torch.zeros(2), "b": torch.zeros(3)}, "different lengths: a 2, b 3"),
    (torch.zeros(2, 100, 100), r"\(100, 100\) numbers for each sample are too many"),
    ({"a": object()}, "a: object is no column"),
    (None, "returned nothing"),
]


@pytest.mark.parametrize(("output", "said"), WRONG)
def test_what_is_no_column_is_refused(output: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        to_columns(output)


def test_outputs_get_names() -> None:
    def names(output: Any) -> Iterator[str]:
        return iter(named_outputs(output))

    x = torch.zeros(2)
    assert list(names(x)) == ["output"]
    assert list(names((x, x))) == ["output_1", "output_2"]
    assert list(names({"a": (x, x), "b": None, "c": x})) == ["a_1", "a_2", "c"]
