"""Hugging Face datasets: three kinds of columns become batches, runs on them resume, and what does not fit is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import polars
import predict
import pytest
import torch
from PIL import Image

from lab.data.huggingface import HuggingFace
from lab.data.huggingface_schema import dims
from lab.engine.runs.resume import resumed_config
from lab.engine.runs.run import Run
from lab.engine.training.train import train
from lab.engine.utils import machine
from lab.engine.utils.errors import Preempted, RunFailed, UserError
from lab.engine.utils.paths import ROOT
from tests.conftest import CLASSES, Compose, refusal, run_script, save_pictures, train_each
from tests.engine.runs.test_resume import assert_equal, stopping_at
from tests.test_docs import blocks

datasets = pytest.importorskip("datasets")

Columns = dict[str, Any]
ROWS = [
    [(start + i) % 7 for i in range(length)] for start, length in zip([*range(7)] * 9, [*range(9)] * 7, strict=True)
]
KINDS: dict[str, Columns] = {
    "images": {"input": "image", "target": "label", "image_shape": [1, 8, 8]},
    "tokens": {"input": "tokens", "context_length": 5, "vocab_size": 7},
    "numbers": {"input": ["size", "shape"], "target": "weight"},
    "labels": {"input": "size", "target": "label", "num_classes": 4},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets as the library saves them."""
    root = tmp_path_factory.mktemp("datasets")
    draw = np.random.default_rng(0)
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}

    def pictures(number: int) -> Any:
        labels = [i % 3 for i in range(number)]
        images = [Image.fromarray((draw.integers(0, 60, (8, 8)) + 80 * y).astype(np.uint8)) for y in labels]
        return datasets.Dataset.from_dict({"image": images, "label": labels}, datasets.Features(kinds))

    splits = {"train": pictures(30), "validation": pictures(6), "test": pictures(9), "extra": pictures(12)}
    numbers = {"size": draw.normal(size=60), "shape": draw.normal(size=(60, 2)).tolist()}
    numbers |= {"weight": numbers["size"] * 2 + 1, "label": [i % 4 for i in range(60)], "word": ["a", "b"] * 30}
    shape = datasets.List(datasets.Value("float32"), length=2)
    saved = {
        "images": datasets.DatasetDict(splits),
        "tokens": datasets.Dataset.from_dict({"tokens": ROWS}),
        "numbers": datasets.Dataset.from_dict(numbers).cast_column("shape", shape),
    }
    for name, dataset in saved.items():
        dataset.save_to_disk(root / name)
    shutil.copytree(root / "numbers", root / "labels")
    return root


def made(folder: Path, kind: str, **options: Any) -> HuggingFace:
    data = HuggingFace(**{"path": str(folder / kind), **KINDS[kind], "batch_size": 6} | options)
    data.setup("fit")
    return data


def samples(data: HuggingFace, split: str) -> list[Any]:
    return [data.datasets[split][i] for i in range(len(data.datasets[split]))]  # type: ignore[arg-type]


def words(folder: Path, kind: str, **options: Any) -> list[str]:
    """The command line that names a dataset."""
    given = {"path": folder / kind, **KINDS[kind]} | options
    return [
        "data=huggingface",
        *(f"data.{name}={value}".replace("'", "").replace(" ", "") for name, value in given.items()),
    ]


def test_images_are_those_of_the_files_normalised(folder: Path) -> None:
    data = made(folder, "images", pixel_mean_std=(0.25, 0.5))
    rows = datasets.load_from_disk(str(folder / "images"))["train"]
    for (image, label), row in zip(samples(data, "train"), rows, strict=True):
        pixels = torch.tensor(np.array(row["image"])) / 255  # decoded by the library
        torch.testing.assert_close(image, ((pixels - 0.25) / 0.5).unsqueeze(0))
        assert int(label) == row["label"]
    assert data.classes == CLASSES
    resized, _ = samples(made(folder, "images", image_shape=[3, 4, 6]), "val")[0]
    assert resized.shape == (3, 4, 6)
    assert torch.equal(resized[0], resized[2])


def test_tokens_are_cut_padded_and_followed_by_the_next(folder: Path) -> None:
    data = made(folder, "tokens", val_fraction=0.2, test_fraction=0.2)
    found = [pair for split in ("train", "val", "test") for pair in samples(data, split)]
    expected = [row for row in ROWS if len(row) > 1]
    for tokens, targets in found:
        counted = targets != -100
        row = [*tokens[counted].tolist(), int(targets[counted][-1])]
        assert row[1:] == targets[counted].tolist()
        assert not tokens[~counted].any()
        assert len(tokens) == len(targets) == 5
        expected.remove(next(whole for whole in expected if whole[:6] == row))
    assert not expected


def test_numbers_of_several_columns_are_features_in_their_order(folder: Path) -> None:
    for x, y in samples(made(folder, "numbers"), "train"):
        assert x.shape == (3,)
        torch.testing.assert_close(y, 2 * x[:1] + 1)
    _, label = samples(made(folder, "labels"), "train")[0]
    assert label.dtype == torch.long
    assert label.ndim == 0


def test_named_splits_are_taken_and_others_held_out(folder: Path) -> None:
    def sizes(**options: Any) -> dict[str, int]:
        return {name: len(rows) for name, rows in made(folder, "images", **options).datasets.items()}  # type: ignore[arg-type]

    assert sizes() == {"train": 30, "val": 6, "test": 9}
    assert sizes(val_split="extra", train_split="test", test_split="train") == {"train": 9, "val": 12, "test": 30}
    shares = {"val_fraction": 0.2, "test_fraction": 0.3}
    first, same, other = (made(folder, "labels", **shares, seed=seed) for seed in (1, 1, 2))
    labels = {name: torch.stack([y for _, y in samples(first, name)]).bincount().tolist() for name in first.datasets}
    assert {name: sum(counts) for name, counts in labels.items()} == {"train": 30, "val": 12, "test": 18}
    assert all(max(counts) - min(counts) <= 1 for counts in labels.values()), "stratified"
    rows = [{float(x[0]) for x, _ in samples(first, name)} for name in first.datasets]
    assert len(set.union(*rows)) == sum(map(len, rows)) == 60, "no row is in two splits"
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(samples(first, "val"), samples(same, "val"), strict=True))
    assert any(
        not torch.equal(a, b) for (a, _), (b, _) in zip(samples(first, "val"), samples(other, "val"), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_workers_make_the_same_batches(kind: str, folder: Path) -> None:
    alone, helped = (list(made(folder, kind, num_workers=n).train_dataloader()) for n in (0, 2))
    assert_equal([list(batch) for batch in alone], [list(batch) for batch in helped])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_stopped_amid_an_epoch_resumes_to_the_bit(
    kind: str, folder: Path, cfg: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"tokens": "gpt", "numbers": "mlp_regressor"}.get(kind, "mlp")
    base = [*words(folder, kind), f"model={model}", "data.batch_size=6", "trainer.max_epochs=2", "logger=none"]
    base += ["model.dropout=0.1", "data.num_workers=2"]
    (tmp_path / "straight").mkdir()
    train(cfg(*base, f"paths.run_dir={tmp_path}/straight"))
    with monkeypatch.context() as patch:
        stopping_at([3], patch)
        with pytest.raises(Preempted):
            train(cfg(*base))
    train(resumed_config(cfg(f"resume='{tmp_path}/run'")))
    runs = [Run(tmp_path / name) for name in ("straight", "run")]
    assert_equal(*(run.read_checkpoint("last")["state_dict"] for run in runs))
    assert_equal(*({name: v for name, v in run.metrics.items() if "second" not in name} for run in runs))


@pytest.fixture(scope="module")
def run(folder: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on pictures that are gone."""
    root = tmp_path_factory.mktemp("runs")
    shutil.copytree(folder / "images", root / "images")
    command = [*words(root, "images"), "model=mlp", "data.batch_size=6", "trainer.max_epochs=8", "optimizer.lr=1e-2"]
    directory = train_each({"pictures": command}, root, data_dir)["pictures"]
    shutil.rmtree(root / "images")
    return Run(directory)


@pytest.mark.slow
def test_a_run_is_evaluated_on_another_dataset(run: Run, tmp_path: Path) -> None:
    other = save_pictures(tmp_path / "other", size=8)
    evaluate.main([f"run={run.dir}", f"data.path={other}"])
    [path] = run.dir.glob("evaluation-*.json")
    assert json.loads(path.read_text())["test/acc"] > 0.6
    described = json.loads((other / "dataset_info.json").read_text())
    described["features"]["label"]["names"] = ["dog", "cat", "owl"]
    (other / "dataset_info.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"'dog', 'cat', 'owl'.* made for .*'cat', 'dog', 'owl'"):
        evaluate.main([f"run={run.dir}", f"data.path={other}"])


def test_a_run_predicts_new_files(run: Run, tmp_path: Path) -> None:
    new = save_pictures(tmp_path / "new", size=8, count=6)
    rows = datasets.load_from_disk(str(new))
    rows.to_parquet(new / "rows.parquet")
    rows.remove_columns("label").save_to_disk(tmp_path / "unlabelled")
    for i, picture in enumerate(rows["image"]):
        picture.save(tmp_path / f"{i}.png")
    files = {"arrow": new / "rows.arrow", "parquet": new / "rows.parquet"}
    files |= {"folder": tmp_path / "unlabelled", "pictures": tmp_path / "*.png"}
    tables = {}
    for name, path in files.items():
        predict.main([f"run={run.dir}", f"in={path}", f"out={tmp_path}/{name}.csv"])
        tables[name] = polars.read_csv(tmp_path / f"{name}.csv")
    assert tables["arrow"]["target"].to_list() == tables["parquet"]["target"].to_list() == CLASSES * 2
    assert "target" not in tables["folder"].columns
    assert tables["pictures"]["file"].to_list() == [f"{tmp_path}/{i}.png" for i in range(6)]
    expected, *others = (table.select(polars.col("^p_.*$")).to_numpy() for table in tables.values())
    for found in others:
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_snippet_of_the_page_makes_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [snippet] = [text for text in blocks(ROOT / "docs" / "training.md", "python") if "save_to_disk" in text]
    exec(snippet, {})
    data = HuggingFace("tokens", "tokens", context_length=8, vocab_size=256, val_fraction=0.3, test_fraction=0.3)
    data.setup("fit")
    tokens, _ = samples(data, "train")[0]
    assert bytes(tokens.tolist()) in (b"once upo", b"there wa", b"the en\x00\x00")


def test_features_that_older_versions_wrote_are_read() -> None:
    data = {"path": "/", "input": ["a", "b"], "target": "y", "image_shape": None, "context_length": None}
    data |= dict.fromkeys(("vocab_size", "num_classes", "num_features"))
    value = {"_type": "Value", "dtype": "float32"}
    features: Any = {
        "a": {"_type": "Sequence", "feature": value, "length": 3},
        "b": {"_type": "Array2D", "shape": [2, 5]},
        "y": value,
    }
    assert dims(data, features) == {"features": 13, "targets": 1}


def replaced(path: Path, **columns: list[Any]) -> None:
    """Saves a dataset again with other values in some columns."""
    rows = datasets.load_from_disk(str(path))
    rows = datasets.Dataset.from_dict({name: rows[name][:9] for name in rows.column_names} | columns, rows.features)
    shutil.rmtree(path)
    rows.save_to_disk(path)


def damaged(path: Path) -> None:
    replaced(path, image=[{"bytes": b"no picture", "path": None}] * 9)


def truncated(path: Path) -> None:
    (path / "rows.arrow").write_bytes(b"nothing")


def hidden(path: Path) -> None:
    replaced(path, label=[0, 1, 2, 0, 1, 2, 0, 1, -1])


FAULTS: dict[str, tuple[Callable[[Path], None], type[Exception], str]] = {
    "pictures": (damaged, UserError, r"image of row \d+ cannot be read as an image: it is no PNG or JPEG"),
    "files": (truncated, RunFailed, "data.path=.*pictures cannot be read"),
    "labels": (hidden, RunFailed, r"label of row 8 is -1, and not one of 3 classes.*1 rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_dataset_are_told(fault: str, tmp_path: Path) -> None:
    harm, kind, said = FAULTS[fault]
    path = save_pictures(tmp_path / "pictures", size=8)
    harm(path)
    data = HuggingFace(str(path), "image", "label", image_shape=(1, 8, 8))

    def read() -> None:
        data.setup("fit")
        samples(data, "train")

    with pytest.raises(kind, match=f"(?s){said}"):
        read()


WRONG: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("imags", {}, ("data.path", "imags: no such folder; did you mean images?")),
    ("", {}, ("no dataset that save_to_disk wrote", "dataset_info.json")),
    ("images", {"input": "imgae"}, ("data.input=imgae", "did you mean image?", "columns: image, label")),
    ("images", {"target": "labels"}, ("data.target=labels", "did you mean label?")),
    ("images", {"image_shape": "null"}, ("data.input=image holds images", "data.image_shape=[3,64,64]")),
    ("images", {"target": "null"}, ("data.target has no value", "data.context_length")),
    ("images", {"image_shape": "[28,28]"}, ("data.image_shape", "a list of 3")),
    ("tokens", {"vocab_size": "null"}, ("data.vocab_size has no value",)),
    ("tokens", {"target": "tokens"}, ("data.target=tokens", "data.context_length")),
    ("numbers", {"target": "word"}, ("data.target=word holds words", "class_encode_column('word')")),
    ("numbers", {"input": "word", "context_length": 5}, ("data.input=word holds string", "tokenise")),
    ("numbers", {"image_shape": "[1,8,8]"}, ("data.input=size holds float64", "no images")),
    ("labels", {"num_classes": "null"}, ("data.num_classes has no value",)),
    ("labels", {"val_fraction": 1.5}, ("data.val_fraction=1.5",)),
]


@pytest.mark.parametrize(("kind", "options", "said"), WRONG, ids=[f"{kind}-{[*o]}" for kind, o, _ in WRONG])
def test_a_wrong_command_is_refused(kind: str, options: dict[str, Any], said: tuple[str, ...], folder: Path) -> None:
    base = kind if kind in KINDS else "images"
    model = "gpt" if base == "tokens" or "context_length" in options else "mlp"
    answer = refusal(*words(folder, base, **{"path": folder / kind} | options), f"model={model}")
    for part in said:
        assert part in answer
    assert len(answer.splitlines()) <= 3


LATE: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    (
        "images",
        {"val_split": "valid"},
        UserError,
        "data.val_split=valid: no such split.*did you mean validation.*extra",
    ),
    ("tokens", {"vocab_size": 6}, RunFailed, "holds the token 6, and data.vocab_size=6"),
    ("labels", {"num_classes": 3}, RunFailed, r"label of row 3 is 3, and not one of 3 classes.*15 rows of 60"),
    ("images", {"image_shape": [2, 8, 8]}, UserError, "1 or 3 channels"),
]


@pytest.mark.parametrize(("kind", "options", "error", "said"), LATE, ids=[said[:20] for *_, said in LATE])
def test_what_the_rows_refute_is_told(
    kind: str, options: dict[str, Any], error: type[Exception], said: str, folder: Path
) -> None:
    with pytest.raises(error, match=f"(?s){said}"):
        made(folder, kind, **options)


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.data.huggingface.has_package", lambda name: False)
    with pytest.raises(UserError, match=r"datasets is not installed: pip install -e \.\[datasets\]"):
        made(folder, "images")
    assert machine.has_package("datasets")


@pytest.mark.slow
def test_a_name_without_a_network_is_answered_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "here").mkdir()
    options = ["data.input=image", "data.target=label", "data.image_shape=[1,8,8]", "data.num_classes=3"]
    done = run_script(
        "src/train.py",
        "data=huggingface",
        "data.path=nobody/pictures",
        *options,
        "model=mlp",
        f"paths.log_dir={tmp_path}/logs",
    )
    assert done.returncode == 1
    assert "data.path=nobody/pictures" in done.stderr
    assert "load_dataset('nobody/pictures').save_to_disk(DIR)" in done.stderr
    assert "Traceback" not in done.stderr
