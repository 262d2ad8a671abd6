"""CSV files: read as they should be, prepared by the training rows, and what is wrong with one told at once."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.datasets import load_diabetes, load_iris

from lab.data.csv import CSV
from lab.data.table_file import dims, is_large
from lab.data.table_schema import encode_features, encode_target, feature_names, infer_schema, read_csv
from lab.engine.config.changes import merge_changes
from lab.engine.config.instantiate import instantiate
from lab.engine.config.validate import validate
from lab.engine.runs.resume import resumed_config
from lab.engine.runs.run import Run
from lab.engine.training.train import train
from lab.engine.utils.errors import UserError
from tests.conftest import Compose, run_script


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def iris(tmp_path_factory: pytest.TempPathFactory) -> str:
    """150 flowers, three classes; one row is there twice."""
    found = load_iris()
    lines = [
        ",".join([*map(str, x), str(found.target_names[y])]) for x, y in zip(found.data, found.target, strict=True)
    ]
    return write(tmp_path_factory.mktemp("csv") / "iris.csv", "\n".join(["a,b,c,d,species", *lines]))


@pytest.fixture(scope="session")
def diabetes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """442 patients, 10 features, a value to predict."""
    found = load_diabetes(scaled=False)
    lines = [",".join(map(str, [*x, y])) for x, y in zip(found.data, found.target, strict=True)]
    header = ",".join([*found.feature_names, "progression"])
    return write(tmp_path_factory.mktemp("csv") / "diabetes.csv", "\n".join([header, *lines]))


def table(tmp_path: Path, text: str, target: str = "y", task: Any = "auto", drop: Any = ()) -> Any:
    words = read_csv(Path(write(tmp_path / "table.csv", text)))
    schema, classes = infer_schema(words, target, task, drop, "table.csv")
    return SimpleNamespace(
        columns=feature_names(schema),
        features=encode_features(words, schema, "table.csv"),
        classes=classes,
        target=encode_target(words, target, classes, "table.csv"),
    )


def test_words_numbers_and_booleans_become_columns(tmp_path: Path) -> None:
    found = table(
        tmp_path,
        "size, height ,sold,checked,code,empty,endless,y\n"
        "large,1.5,true,True, 1,,inf,b\n"
        "small, NA,false,False, 2,,,a\n"
        "?,inf,,True,NA,,nan, b\n"
        "small,-2,true,,3,,-inf,\n"
        "large,0,true,,3,,,a\n",
    )
    nan = float("nan")
    assert found.columns == ["size=large", "size=small", "height", "sold", "checked", "code"]
    np.testing.assert_equal(
        found.features,
        [
            [1, 0, 1.5, 1, 1, 1],
            [0, 1, nan, 0, 0, 2],
            [nan, nan, float("inf"), nan, 1, nan],  # which is missing as well, see test_prepare.py
            [0, 1, -2, 1, nan, 3],
            [1, 0, 0, 1, nan, 3],
        ],
    )
    assert found.classes == ["a", "b"]
    assert found.target.tolist() == [1, 0, 1, -1, 0]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_a_byte_order_mark(separator: str, tmp_path: Path) -> None:
    found = table(tmp_path, "\ufeffx,y\n1,u\n2,v\n3,u\n4,v\n".replace(",", separator))
    assert found.columns == ["x"]
    assert found.features[:, 0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["it's.csv", "a=b, c.csv", "grüße.csv", "part[1]*?.csv", "${x}.csv"])
def test_a_file_may_have_any_name(name: str, tmp_path: Path) -> None:
    assert read_csv(Path(write(tmp_path / name, "x,y\n1,u\n"))).rows() == [("1", "u")]


def test_a_late_row_changes_the_type_of_its_column(tmp_path: Path) -> None:
    rows = [f"{i},1,{'uv'[i % 2]}" for i in range(11_000)]
    found = table(tmp_path, "\n".join(["x,z,y", *rows, "0.5,few,u"]))
    assert found.columns == ["x", "z=1", "z=few"]
    assert found.features[-1].tolist() == [0.5, 0, 1]


AUTO = [
    ("u v u v", ["u", "v"]),
    ("true false true false", ["False", "True"]),
    ("3 1 3 1", ["1", "3"]),
    ("1.5 2.5 1.5 2.5", None),
    (" ".join(map(str, [*range(20), *range(20)])), [str(i) for i in range(20)]),
    (" ".join(map(str, [*range(21), *range(21)])), None),
]


@pytest.mark.parametrize(("column", "classes"), AUTO, ids=[column[:20] for column, _ in AUTO])
def test_the_target_tells_the_task(column: str, classes: list[str] | None, tmp_path: Path) -> None:
    text = "x,y\n" + "".join(f"{i},{value}\n" for i, value in enumerate(column.split()))
    found = table(tmp_path, text)
    assert found.classes == classes
    if classes is None:
        assert found.target.tolist() == [float(value) for value in column.split()]
    else:
        names = [classes[int(i)].lower() for i in found.target]
        assert names == column.split()


def test_the_task_can_be_chosen(tmp_path: Path) -> None:
    text = "x,y\n" + "1,3\n2,4\n3,3\n4,4\n"
    assert table(tmp_path, text).classes == ["3", "4"]
    assert table(tmp_path, text, task="regression").target.tolist() == [3, 4, 3, 4]
    assert table(tmp_path, "x,y\n1,3.0\n2,\n3,3.0\n4,4.0\n5,4.0\n", task="classification").target.tolist() == [
        0,
        -1,
        0,
        1,
        1,
    ]


def test_facts_follow_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "x,y\n1,u\n2,v\n3,u\n4,v\n")
    assert dims(path, "y", "auto", []) == {"features": 1, "classes": 2}
    time.sleep(0.02)
    write(tmp_path / "t.csv", "x,z,y\n1,1,0.5\n2,1,0.7\n")
    assert dims(path, "y", "auto", []) == {"features": 2, "targets": 1}
    assert dims(path, "y", "auto", ["z"]) == {"features": 1, "targets": 1}


def test_iris(iris: str) -> None:
    data = CSV(iris, "species", batch_size=16)
    data.setup("fit")
    sizes = {name: len(labels) for name, (_, labels) in data.splits.items()}
    assert sizes == {"val": 22, "test": 22, "train": 105}  # of the 149 that differ
    for name, (x, labels) in data.splits.items():
        counts = labels.bincount(minlength=3)
        assert counts.max() - counts.min() <= 1, f"{name}: stratified"
        assert x.shape[1] == 4
    x = data.splits["train"][0]
    torch.testing.assert_close(x.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(4), atol=1e-5, rtol=0)
    assert data.target_scale is None


def test_no_row_is_in_two_splits(iris: str) -> None:
    data = CSV(iris, "species", batch_size=16, standardize=False)
    data.setup("fit")
    seen = [(*row, int(y)) for x, labels in data.splits.values() for row, y in zip(x.tolist(), labels, strict=True)]
    assert len(seen) == len(set(seen)) == 149
    with_copies = CSV(iris, "species", batch_size=16, duplicates="keep")
    with_copies.setup("fit")
    assert sum(len(labels) for _, labels in with_copies.splits.values()) == 150


def test_the_split_depends_on_the_seed(iris: str) -> None:
    seeds = [CSV(iris, "species", batch_size=16, standardize=False, seed=seed) for seed in (1, 1, 2)]
    for data in seeds:
        data.setup("fit")
    first, same, other = (data.splits["val"][0] for data in seeds)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_values_keep_their_units_and_tell_their_scale(diabetes: str) -> None:
    data = CSV(diabetes, "progression", batch_size=16, seed=3)
    assert data.target_scale is None
    data.setup("fit")
    values = data.splits["train"][1]
    assert values.shape == (310, 1)
    everything = torch.cat([y for _, y in data.splits.values()])
    assert sorted(everything.squeeze(1).tolist()) == sorted(load_diabetes().target.tolist())
    assert data.target_scale == pytest.approx((values.mean().item(), values.numpy().std()), rel=1e-5)


def test_equal_values_have_scale_one(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "x,y\n" + "".join(f"{i},2.5\n" for i in range(20)))
    data = CSV(path, "y", batch_size=4)
    data.setup("fit")
    assert data.target_scale == (2.5, 1.0)


def test_dims_reach_the_model(cfg: Compose, iris: str, diabetes: str) -> None:
    composed = cfg("data=csv", f"data.path={iris}", "data.target=species", "data.drop=[a]", "model=mlp")
    validate(composed)
    assert composed.dims == {"features": 3, "classes": 3}
    assert (composed.model.in_features, composed.model.num_classes) == (3, 3)
    data = instantiate(composed.data)
    data.setup("fit")
    features, labels = next(iter(data.train_dataloader()))
    assert features.shape[1] == 3
    assert set(labels.tolist()) == {0, 1, 2}
    with pytest.raises(UserError, match=r"it needs dims\.classes, and the data offers features, targets"):
        validate(cfg("data=csv", f"data.path={diabetes}", "data.target=progression", "model=mlp"))


def test_a_run_can_be_given_another_file(cfg: Compose, iris: str) -> None:
    changes = ["data=csv", f"data.path={iris}", "data.target=species"]
    merged = merge_changes(cfg("model=mlp", "data=blobs"), changes, {"data": "blobs", "model": "mlp"})
    assert merged.data == cfg(*changes).data
    assert merged.dims == {"features": 4, "classes": 3}
    assert merged.data.path == iris


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Words, booleans and numbers, gaps and rows that are there twice; read seven rows at a time."""
    monkeypatch.setattr("lab.data.table_file.BATCH", 7)
    rng = np.random.default_rng(0)
    rows = [
        f"{rng.normal():.6f},{['red', 'green', '', 'NA'][i * i % 4]},{rng.choice(['true', 'False'])},{i * 7 % 5},{i},k"
        for i in range(200)
    ]
    rows = [row.replace(",k", f",{'uvw'[i % 3]}") if i % 19 else row.replace(",k", ",") for i, row in enumerate(rows)]
    rows = [("inf" + row[row.index(",") :]) if i % 11 == 0 else row for i, row in enumerate(rows)]
    return write(
        tmp_path / "mixed.csv", "\n".join(["x,colour,is,n,i,kind", *rows, *rows[5:60], "0.5,blue,true,2.5,7,u"])
    )


@pytest.mark.parametrize("options", [{}, {"missing": "mean"}, {"missing": "drop"}, {"duplicates": "keep"},
                                     {"standardize": False}, {"drop": ["colour"], "seed": 4}])  # fmt: skip
@pytest.mark.parametrize("target", ["kind", "i"])
def test_a_table_in_a_file_is_the_table_in_memory(
    target: str, options: dict[str, Any], mixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.data.csv.memory_limit", lambda: 16 * 8 * 200 * 2)  # two columns at a time
    held, mapped = (
        CSV(mixed, target, batch_size=16, resident=resident, data_dir=str(tmp_path), **options)
        for resident in (True, False)
    )
    for data in (held, mapped):
        data.prepare_data()
        data.setup("fit")
    assert (mapped.schema, mapped.classes) == (held.schema, held.classes)
    assert mapped.target_scale == held.target_scale
    for split in ("train", "val", "test"):
        pairs = zip(held.eval_dataloader(split), mapped.eval_dataloader(split), strict=True)
        for (x, y), (mapped_x, mapped_y) in pairs:
            torch.testing.assert_close(mapped_x, x, rtol=1e-5, atol=1e-5, equal_nan=True)
            assert torch.equal(mapped_y, y)
    for (x, y), (mapped_x, mapped_y) in zip(held.train_dataloader(), mapped.train_dataloader(), strict=True):
        torch.testing.assert_close(mapped_x, x, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert torch.equal(mapped_y, y)
    features, _ = mapped.read(mixed) if options.get("missing") != "drop" else (torch.zeros(0), None)
    assert features.isfinite().all()


def test_a_table_is_encoded_once(mixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def setup(**options: Any) -> CSV:
        data = CSV(mixed, "kind", resident=False, data_dir=str(tmp_path), **options)
        data.setup("fit")
        return data

    first = setup()
    files = sorted((tmp_path / "tables").iterdir())
    assert sorted(file.suffix for file in files) == [".json", ".json", ".rows"]
    monkeypatch.setattr("lab.data.table_file.scan_csv", None)  # would fail
    with monkeypatch.context() as patch:
        patch.setattr("lab.data.prepare.Preprocessor.fit", None)
        assert setup().preparation == first.preparation
    again = setup(seed=1, missing="mean")
    assert again.schema == first.schema
    monkeypatch.undo()
    with open(mixed, "a") as file:
        file.write("\n0.25,red,true,1,9,v")
    assert len(setup()._features) == len(first._features) + 1  # type: ignore[arg-type]


def test_a_table_in_a_file_names_what_is_wrong_and_leaves_nothing(mixed: str, tmp_path: Path) -> None:
    data = CSV(mixed, "kind", resident=False, data_dir=str(tmp_path / "data"))
    data.setup("fit")
    lines = Path(mixed).read_text().splitlines()
    lines[50] = "few" + lines[50][lines[50].index(",") :]
    other = CSV(write(tmp_path / "o.csv", "\n".join(lines)), "kind", resident=False, data_dir=str(tmp_path / "other"))
    other.restore(data.preparation)
    with pytest.raises(UserError, match=r"row 50 of o\.csv: x=few is no number"):
        other.setup("test")
    assert not list((tmp_path / "other" / "tables").iterdir())
    for text, said in [
        (",".join("ab") + "\n", "column names and no rows"),
        ("a,kind\n1,2,3\n", "cannot be read as CSV"),
    ]:
        bad = CSV(write(tmp_path / "bad.csv", text), "kind", resident=False, data_dir=str(tmp_path / "other"))
        with pytest.raises(UserError, match=said):
            bad.prepare_data()


def test_a_file_is_large_beside_the_memory(mixed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(mixed)
    assert not is_large(path, "auto")
    assert (is_large(path, True), is_large(path, False)) == (False, True)
    monkeypatch.setattr("lab.data.table_file.memory_limit", lambda: 15 * path.stat().st_size)
    assert is_large(path, "auto")


def test_a_table_in_a_file_trains_and_offers_its_dims(cfg: Compose, mixed: str, tmp_path: Path) -> None:
    words = ["data=csv", f"data.path={mixed}", "data.target=kind", "data.resident=false", "model=mlp"]
    config = cfg(*words, "trainer.max_epochs=1", "logger=none", f"paths.data_dir={tmp_path}/data")
    validate(config)
    assert config.dims == {"features": 7, "classes": 3}
    train(config)
    assert Run(tmp_path / "run").status == "completed"
    assert (tmp_path / "data" / "tables").is_dir()


CHANGES: dict[str, Callable[[Path], int]] = {
    "a row more": lambda path: path.write_text(path.read_text() + "\n9,9,9,9,setosa\n"),
    "a column more": lambda path: path.write_text(
        "\n".join(f"{line},{i % 7 if i else 'e'}" for i, line in enumerate(path.read_text().splitlines()))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_not_resumed_on_a_file_that_has_changed(change: str, cfg: Compose, iris: str, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "iris.csv", Path(iris).read_text()))
    short = ["data=csv", f"data.path={path}", "data.target=species", "model=mlp", "logger=none", "trainer.max_epochs=1"]
    train(cfg(*short))
    run = Run(tmp_path / "run")
    prepared: Any = run.datamodule()
    prepared.setup("test")

    def go_on() -> None:
        config = run.saved
        config.trainer.max_epochs += 1
        OmegaConf.save(config, run.dir / ".hydra" / "config.yaml")
        run.write("run.json", run.metadata | {"status": "running"})
        train(resumed_config(cfg(f"resume='{run.dir}'")))

    go_on()
    assert run.status == "completed"
    CHANGES[change](path)
    with pytest.raises(UserError, match=f"{path} is not the file that this run was trained on"):
        go_on()
    # README's lines in a notebook work on: what is read is prepared as the training rows said
    data: Any
    model, data = run.model(), run.datamodule()
    data.setup("test")
    assert data.preparation == prepared.preparation
    assert model(next(iter(data.test_dataloader()))[0]).shape[1] == 3
    path.unlink()
    model, data = run.model(), run.datamodule()
    features, _ = data.read(iris)
    assert model(features.float()).shape == (150, 3)


WORDS = "x,w,y\n" + "".join(f"{i},word{i},{i}.5\n" for i in range(60))
GOOD = "x,w,y\n1,a,u\n2,b,v\n3,a,u\n4,b,v\n"
BAD = [
    ("", {}, "is empty"),
    ("\n\n", {}, "is empty"),
    ("x,y\n", {}, "column names and no rows"),
    ("x,y\n1,2,3\n", {}, "cannot be read as CSV"),
    (GOOD, {"target": "Y"}, "data.target=Y: no such column in table.csv"),
    (GOOD, {"target": "yy"}, "did you mean y?"),
    (GOOD, {"drop": ["q"]}, "data.drop=q: no such column in table.csv.*columns: x, w, y"),
    (GOOD, {"drop": ["y"]}, "y is the target"),
    (GOOD, {"drop": ["x", "w"]}, "no column to learn from"),
    ("y\nu\nv\nu\nv\n", {}, "no column to learn from"),
    (GOOD, {"task": "regression"}, "data.target=y holds words in table.csv, such as 'u'"),
    ("x,y\n1,u\n2,u\n", {}, "'u' in every row"),
    ("x,y\n1,\n2,NA\n", {}, "no row of table.csv has a value"),
    ("x,y\n1,nan\n2,inf\n", {}, "no row of table.csv has a value"),
    ("x,y\n1,a\n2,b\n3,c\n", {}, "3 classes in 3 rows"),
    ("x,y\n1,0.5\n2,0.7\n3,0.5\n4,0.7\n", {"task": "classification"}, "holds fractions in table.csv, such as 0.5"),
    (WORDS, {}, "column w of table.csv holds 60 different words .such as 'word0'.*leave it out: 'data.drop=.w.'"),
]


@pytest.mark.parametrize(("text", "options", "said"), BAD, ids=[said[:30] for _, _, said in BAD])
def test_what_is_wrong_with_a_file_is_told(text: str, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="(?s)" + said.replace("?", r"\?")) as told:
        table(tmp_path, text, **options)
    assert len(str(told.value).splitlines()) <= 2


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    write(tmp_path / "iris.csv", GOOD)
    with pytest.raises(UserError, match=r"irsi\.csv: no such file; did you mean iris\.csv\?"):
        read_csv(tmp_path / "irsi.csv")
    with pytest.raises(UserError, match=r"no such file$"):
        read_csv(tmp_path / "nowhere" / "irsi.csv")
    with pytest.raises(UserError, match="is a folder: give a file"):
        read_csv(tmp_path)


def test_shares_that_leave_nothing_are_refused(iris: str) -> None:
    with pytest.raises(ValueError, match="nothing is left to train on"):
        CSV(iris, "species", val_fraction=0.5, test_fraction=0.5, batch_size=8)


COMMANDS = [
    ([], ["data.path has no value"]),
    (["data.path={dir}/iris.csv"], ["data.target has no value"]),
    (["data.path={dir}/irsi.csv", "data.target=species"], ["irsi.csv: no such file; did you mean iris.csv?"]),
    (["data.path={dir}/iris.csv", "data.target=speices"], ["data.target=speices", "did you mean species?"]),
    (
        ["data.path={dir}/iris.csv", "data.target=species", "model=lenet"],
        ["it needs dims.image_shape, and the data offers features, classes"],
    ),
]


@pytest.mark.parametrize(("words", "said"), COMMANDS)
def test_wrong_commands_are_answered_before_torch(words: list[str], said: list[str], iris: str, tmp_path: Path) -> None:
    directory = str(Path(iris).parent)
    model = [] if any(word.startswith("model=") for word in words) else ["model=mlp"]
    overrides = ["data=csv", *model, f"paths.log_dir={tmp_path}", *(w.format(dir=directory) for w in words)]
    probe = write(
        tmp_path.parent / f"{tmp_path.name}.py",
        f"import runpy, sys\nsys.argv = ['train.py', *{overrides!r}]\n"
        "try: runpy.run_path('src/train.py', run_name='__main__')\n"
        "finally: assert not {'torch', 'pytorch_lightning'} & set(sys.modules)\n",
    )
    answer = run_script(probe, timeout=30)
    assert answer.returncode == 2, answer.stderr
    assert answer.stderr.startswith("error: ")
    for part in said:
        assert part in answer.stderr
    assert len(answer.stderr.splitlines()) <= 3
    assert not list(tmp_path.iterdir()), "a wrong command leaves nothing behind"
