"""Predictions of whole runs: the same as the model's by hand, from what a run directory holds alone."""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import polars
import predict as script
import pytest
import torch
from PIL import Image

from lab.data.csv import CSV
from lab.data.images import read_image
from lab.data.table_schema import encode_target, infer_schema, read_csv
from lab.engine.inference.output import write_table
from lab.engine.inference.predict import to_columns
from lab.engine.inference.request import read_request
from lab.engine.runs.run import Run
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import atomic_write
from lab.models.gpt import GPT
from lab.models.rnn import RNNRegressor
from lab.models.vae import VAE
from tests.conftest import CLASSES, run_script


def predict(*words: str) -> None:
    script.main(list(words))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_split_is_predicted_as_by_hand(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Run.open(runs["digits"])
    predict(f"run={run.dir}", f"out={tmp_path}/p.csv")
    model: Any = run.model().eval()
    data: Any = run.datamodule()
    data.prepare_data()
    data.setup("test")
    images, labels = (torch.cat(part) for part in zip(*data.test_dataloader(), strict=True))
    with torch.no_grad():
        shares = model(images).softmax(1)
    rows = rows_of(tmp_path / "p.csv")
    assert list(rows[0]) == ["index", "label", "probability", "target", *(f"p_{i}" for i in range(10))]
    assert [int(row["index"]) for row in rows] == list(range(len(labels)))
    assert [int(row["target"]) for row in rows] == labels.tolist()
    assert [int(row["label"]) for row in rows] == shares.argmax(1).tolist()
    found = torch.tensor([[float(row[f"p_{i}"]) for i in range(10)] for row in rows])
    torch.testing.assert_close(found, shares, atol=1e-6, rtol=1e-5)
    assert [float(row["probability"]) for row in rows] == [max(map(float, list(row.values())[4:])) for row in rows]
    accuracy = np.mean([row["label"] == row["target"] for row in rows])
    assert accuracy == pytest.approx(run.metrics["test/acc"], abs=1e-6)


def test_the_training_split_comes_in_its_order(runs: dict[str, Path], tmp_path: Path) -> None:
    predict(f"run={runs['digits']}", "in=train", f"out={tmp_path}/p.csv")
    data: Any = Run.open(runs["digits"]).datamodule()
    data.setup("fit")
    assert [int(row["target"]) for row in rows_of(tmp_path / "p.csv")] == data.splits["train"][1].tolist()


def test_a_table_is_read_as_the_training_file_was(runs: dict[str, Path], tmp_path: Path) -> None:
    """Its columns in another order, with one more; against the model on the splits that training itself had."""
    run = Run.open(runs["kinds"])
    data: Any = run.datamodule()
    data.restore(run.preparation())
    features, _ = data.read(str(runs["copy"]))
    trained_on = torch.load(runs["copy"].parent / "kinds.pt", weights_only=True)
    seen = {tuple(row) for row in features.float().tolist()}
    for name, split in trained_on.items():
        assert {tuple(row) for row in split.tolist()} <= seen, f"{name} was prepared as it was in training"
    columns = list(zip(*(line.split(",") for line in runs["copy"].read_text().splitlines()), strict=True))
    shuffled = [columns[i] for i in (3, 5, 0, 2, 1)]  # born, weight, size, tame, colour, and no kind
    other = tmp_path / "new.csv"
    other.write_text("\n".join(";".join(row) for row in zip(*shuffled, strict=True)) + "\n")
    predict(f"run={run.dir}", f"in={other}", f"out={tmp_path}/p.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    with torch.no_grad():
        shares = run.model().eval()(features.float()).softmax(1)
    assert list(rows[0]) == ["row", "label", "probability", "p_cat", "p_dog", "p_owl"]
    assert [row["row"] for row in rows] == list(range(1, 121))
    assert [row["label"] for row in rows] == [CLASSES[i] for i in shares.argmax(1)]
    torch.testing.assert_close(torch.tensor([[row[f"p_{c}"] for c in CLASSES] for row in rows]), shares)


def test_a_table_gives_the_same_before_and_after_its_training_file_goes(
    runs: dict[str, Path], data_dir: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "animals.csv", [tmp_path / "before.csv", tmp_path / "after.csv"]
    shutil.copy(runs["copy"], path)
    shutil.copytree(runs["weights"], tmp_path / "run")
    config = tmp_path / "run" / ".hydra" / "config.yaml"
    config.write_text(re.sub(r"  path: .*animals\.csv", f"  path: {path}", config.read_text()))
    predict(f"run={tmp_path}/run", f"in={runs['copy']}", f"out={out[0]}")
    predict(f"run={tmp_path}/run", "in=test", f"out={tmp_path}/test.csv")  # reads the file
    path.unlink()
    predict(f"run={tmp_path}/run", f"in={runs['copy']}", f"out={out[1]}")
    assert out[0].read_text() == out[1].read_text()
    with pytest.raises(UserError, match=r"animals\.csv: no such file"):
        predict(f"run={tmp_path}/run", "in=test")


def test_values_are_predicted_in_their_units(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Run.open(runs["weights"])
    predict(f"run={run.dir}", f"in={runs['copy']}", f"out={tmp_path}/p.csv")
    rows = rows_of(tmp_path / "p.csv")
    assert list(rows[0]) == ["row", "prediction", "target"]
    found, true = (np.array([float(row[name]) for row in rows]) for name in ("prediction", "target"))
    assert true.tolist() == [float(row["weight"]) for row in rows_of(runs["copy"])]
    assert np.abs(found - true).mean() < 2, "near 30, and not standardised"
    data: Any = run.datamodule()
    data.restore(run.preparation())
    model: Any = run.model().eval()
    with torch.no_grad():
        by_hand = model(data.read(str(runs["copy"]))[0].float()) * model.target_std + model.target_mean
    np.testing.assert_allclose(found, by_hand.squeeze(1), rtol=1e-6)


def test_another_file_is_evaluated_by_what_the_training_rows_said(runs: dict[str, Path]) -> None:
    """The same rows in another file give the same figures, though the training file is gone."""
    evaluate.main([f"run={runs['kinds']}", f"data.path={runs['copy']}"])
    measured = json.loads((runs["kinds"] / "evaluation-csv.json").read_text())
    assert measured == pytest.approx({k: v for k, v in Run(runs["kinds"]).metrics.items() if k.startswith("test/")})


def edited(source: Path, target: Path, edit: Callable[[list[str]], None]) -> Path:
    lines = source.read_text().splitlines()
    edit(lines)
    target.write_text("\n".join(lines) + "\n")
    return target


def put(row: int, column: int, word: str) -> Callable[[list[str]], None]:
    def edit(lines: list[str]) -> None:
        cells = lines[row].split(",")
        cells[column] = word
        lines[row] = ",".join(cells)

    return edit


BAD_TABLES = [
    (put(0, 1, "color"), r"has no column colour, .*did you mean color\?\ncolumns: size, color, tame"),
    (put(5, 1, "gren"), r"row 5 of new\.csv: colour=gren is no word .*did you mean green\?\nknown: blue, green, red"),
    (put(7, 0, "tall"), r"row 7 of new\.csv: size=tall is no number$"),
    (put(9, 2, "maybe"), r"row 9 of new\.csv: tame=maybe is not true or false$"),
    (lambda lines: lines.__delitem__(slice(1, None)), "in=.*new.csv holds column names and no rows"),
    (lambda lines: lines.clear(), "in=.*new.csv is empty"),
    (lambda lines: lines.append("1,2,3,4,5,6,7,8,9"), "in=.*new.csv cannot be read as CSV"),
]


@pytest.mark.parametrize(("edit", "said"), BAD_TABLES, ids=[said[:24] for _, said in BAD_TABLES])
def test_what_is_wrong_with_a_table_is_told(
    edit: Callable[[list[str]], None], said: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    new = edited(runs["copy"], tmp_path / "new.csv", edit)
    with pytest.raises(UserError, match=said) as told:
        predict(f"run={runs['kinds']}", f"in={new}", f"out={tmp_path}/p.csv")
    assert len(str(told.value).splitlines()) <= 2
    assert not (tmp_path / "p.csv").exists()


def test_gaps_are_refused_where_training_dropped_them(runs: dict[str, Path]) -> None:
    data: Any = Run.open(runs["kinds"]).datamodule()
    data.restore(Run.open(runs["kinds"]).preparation() | {"fill": None})
    with pytest.raises(UserError, match=r"row 1 of copy\.csv: born is missing"):
        data.read(str(runs["copy"]))


def test_an_unknown_class_is_told(runs: dict[str, Path], tmp_path: Path) -> None:
    data: Any = Run.open(runs["kinds"]).datamodule()
    data.restore(Run.open(runs["kinds"]).preparation())
    data.path = str(edited(runs["copy"], tmp_path / "new.csv", put(4, 4, "dgo")))
    with pytest.raises(UserError, match=r"row 4 of new\.csv: kind=dgo is no class .*did you mean dog\?"):
        data.setup("test")


def test_numbers_are_read_to_the_bit_and_classes_however_they_are_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = [repr(float(x)) for x in rng.normal(size=300) * 10.0 ** rng.integers(-30, 30, 300)]
    path = tmp_path / "t.csv"
    lines = [f"{x}, {'uv'[i % 2]},left out,{i % 3}.0\n" for i, x in enumerate(numbers)]
    path.write_text("x,w,b,y\n" + "".join(lines))
    data = CSV(str(path), "y", drop=["b"], standardize=False)
    data.setup("fit")
    assert data.read(path)[0][:, 0].tolist() == [float(x) for x in numbers]
    words = read_csv(path)
    classes = infer_schema(words, "y", "classification", ["b"], "t")[1]
    for column in (words["y"], words["y"].str.replace(r"\.0", "")):
        assert encode_target(column.to_frame(), "y", classes, "t").tolist() == [i % 3 for i in range(300)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, runs: dict[str, Path]) -> Path:
    """Twelve test images of the digits run, as files of several kinds and sizes, and split.csv beside them."""
    folder = tmp_path_factory.mktemp("images") / "images"
    folder.mkdir()
    predict(f"run={runs['digits']}", f"out={folder.parent}/split.csv")
    data: Any = Run.open(runs["digits"]).datamodule()
    data.setup("test")
    for i in range(12):
        pixels = data.splits["test"][0][i, 0].numpy()
        image = Image.fromarray(pixels)
        match i % 4:
            case 0:
                image.save(folder / f"{i:02}.png")
            case 1:
                image.convert("RGB").save(folder / f"{i:02}.PNG")
            case 2:
                image.resize((56, 56), Image.Resampling.NEAREST).save(folder / f"{i:02}.png")
            case 3:
                Image.fromarray(pixels.astype(np.uint16) * 257).save(folder / f"{i:02}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.mark.parametrize("pattern", ["", "/*", "/0[0-9].png", "/02.png"])
def test_images_are_predicted_as_the_data_they_were(
    pattern: str, images: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    predict(f"run={runs['digits']}", f"in={images}{pattern}", f"out={tmp_path}/p.csv")
    rows, split = rows_of(tmp_path / "p.csv"), rows_of(images.parent / "split.csv")
    chosen = {"": range(12), "/*": range(12), "/0[0-9].png": [0, 2, 3, 4, 6, 7, 8], "/02.png": [2]}[pattern]
    assert [int(Path(row["file"]).stem) for row in rows] == list(chosen)
    for row, i in zip(rows, chosen, strict=True):
        assert row["label"] == split[i]["label"]
        for k in range(10):
            # twice as large and shrunk again, the edges are mixed with their neighbours
            assert float(row[f"p_{k}"]) == pytest.approx(float(split[i][f"p_{k}"]), abs=0.1 if i % 4 == 2 else 1e-5)


def test_images_are_turned_into_the_shape_of_the_data(tmp_path: Path) -> None:
    halves = np.zeros((40, 20, 3), dtype=np.uint8)
    halves[:20] = (255, 0, 0)
    Image.fromarray(halves).save(tmp_path / "a.png")
    colour = read_image(tmp_path / "a.png", (3, 8, 8))
    assert colour.shape == (3, 8, 8)
    assert colour[:, 0, 0].tolist() == [255, 0, 0]
    assert colour[:, 7, 0].tolist() == [0, 0, 0]
    grey = read_image(tmp_path / "a.png", (1, 8, 8))
    assert grey.dtype == torch.uint8
    assert int(grey[0, 0, 0]) == 76  # ITU-R 601's share of red, which Pillow's L stands for
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(halves).save(tmp_path / "b.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "b.jpg", (1, 8, 8))[0, 7, 0] > 60


@pytest.mark.parametrize("content", [b"", b"no image", "cut"], ids=["empty", "text", "cut"])
def test_an_unreadable_image_is_named(
    content: bytes | str, images: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(images, folder)
    bad = folder / "05.png"
    bad.write_bytes((images / "00.png").read_bytes()[:-60] if isinstance(content, str) else content)
    with pytest.raises(UserError, match=r"05\.png cannot be read as an image: \w+"):
        predict(f"run={runs['digits']}", f"in={folder}", f"out={tmp_path}/p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_a_text_is_continued_as_by_hand(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"run={runs['text']}", "prompt=the ", "num_tokens=9", "temperature=0.7", "top_k=20", "seed=3"]
    predict(*words)
    model: Any = Run.open(runs["text"]).model().eval()
    prompt = torch.tensor([list(b"the ")])
    tokens = model.generate(prompt, 9, temperature=0.7, top_k=20, seed=3)[0]
    text = bytes(tokens.tolist()).decode(errors="replace")
    assert capsys.readouterr().out == text + "\n"
    predict(*words, f"out={tmp_path}/p.jsonl")
    assert json.loads((tmp_path / "p.jsonl").read_text()) == {"prompt": "the ", "text": text}
    predict(*words, f"out={tmp_path}/p.txt")
    assert (tmp_path / "p.txt").read_text() == text + "\n"


def test_a_text_goes_on_beyond_the_context() -> None:
    torch.manual_seed(0)
    model = GPT(vocab_size=11, context_length=8, embed_dim=16, num_layers=1, num_heads=2).eval()

    def complete(num_tokens: int, **options: Any) -> list[int]:
        return [int(token) for token in model.complete("1 2 3", None, num_tokens=num_tokens, **options).split()]

    text = complete(30, temperature=0.0)
    assert len(text) == 33
    assert text[:8] == model.generate(torch.tensor([[1, 2, 3]]), 5, temperature=0.0)[0].tolist()
    assert text[4:12] == model.generate(torch.tensor([text[4:8]]), 4, temperature=0.0)[0].tolist()
    assert complete(30, seed=1) != complete(30, seed=2)


def test_letters_that_the_run_never_saw_are_noted(runs: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    predict(f"run={runs['text']}", "prompt=aé", "num_tokens=1")
    assert "the run's text holds no 'é'" in caplog.text


def test_samples_are_a_grid(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Run.open(runs["gan"])
    predict(f"run={run.dir}", "checkpoint=last", "num_samples=6", "seed=1", f"out={tmp_path}/s.png")
    grid = torch.from_numpy(np.asarray(Image.open(tmp_path / "s.png")).copy())[..., 0]
    assert grid.shape == (2 * 30 + 2, 3 * 30 + 2)
    model: Any = run.model("last").eval()
    images = model.sample(6, torch.Generator().manual_seed(0))
    assert images.shape == (6, 1, 28, 28)
    predict(f"run={run.dir}", "checkpoint=last", "num_samples=6", "seed=1")
    assert (run.dir / "samples.png").read_bytes() == (tmp_path / "s.png").read_bytes()


def test_tasks_without_a_run_answer_too() -> None:
    torch.manual_seed(0)
    vae = VAE(hidden_sizes=[8], latent_dim=2).eval()
    with torch.inference_mode():
        found = vae.predict_step((torch.rand(5, 1, 28, 28), None), 0)
        assert list(found) == ["elbo", "reconstruction", "kl"]
        torch.testing.assert_close(found["elbo"], -found["reconstruction"] - found["kl"])
        rnn = RNNRegressor(input_size=2, num_targets=2, hidden_size=4).eval()
        inputs, targets = (torch.rand(3, 7, 2), torch.tensor([7, 3, 5])), torch.rand(3, 2)
        columns = to_columns(rnn.predict_step((*inputs, targets), 0))
        assert {name: [column.name for column in found] for name, found in columns.items()} == {
            "prediction": ["prediction_1", "prediction_2"],
            "target": ["target_1", "target_2"],
        }
        assert columns["prediction"][1].to_list() == pytest.approx(rnn.predict(*inputs)[:, 1].tolist())
        gpt = GPT(vocab_size=5, context_length=4, embed_dim=8, num_layers=1, num_heads=2).eval()
        tokens, following = torch.tensor([[0, 1, 2]]), torch.tensor([[1, -100, 3]])
        logs = gpt(tokens).log_softmax(-1)[0]
        assert float(gpt.predict_step((tokens, following), 0)["loss"]) == pytest.approx(
            -(logs[0, 1] + logs[2, 3]).item() / 2
        )


COMMANDS: list[tuple[str, list[str], str]] = [
    ("digits", ["in=tset"], r"in=tset: no such file; did you mean test\?"),
    ("digits", ["in={images}/00.pgn"], r"00\.pgn: no such file; did you mean 00\.png\?"),
    ("digits", ["in={images}/notes.txt"], r"\(Digits\) reads \.png, \.jpg, \.jpeg"),
    ("digits", ["in={images}/*.gif"], "this pattern holds no file"),
    ("digits", ["in={empty}"], "this folder holds no file"),
    ("digits", ["in={copy}"], r"the run's data \(Digits\) reads \.png"),
    ("kinds", ["in={images}/00.png"], r"the run's data \(CSV\) reads \.csv"),
    ("digits", ["prompt=a"], 'prompt="…" is nothing for the run\'s model LeNet; it takes\n  in=test'),
    ("gan", ["checkpoint=last", "in=test"], "nothing for the run's model GAN; it takes\n  num_samples=N"),
    ("text", ["num_samples=3"], "nothing for the run's model GPT"),
    ("text", ["in={copy}"], r"the run's data \(Text\) has no predict_inputs"),
    ("text", ["prompt="], "prompt= is empty"),
    ("text", ["prompt=a", "in=test"], "in= and prompt= at once"),
    ("text", ["prompt=a", "num_tokens=many"], "num_tokens=many: expected a whole number"),
    ("text", ["prompt=a", "num_tokens=0"], "num_tokens=0: give a number from 1"),
    ("text", ["prompt=a", "temperature=hot"], "temperature=hot: expected a number"),
    ("text", ["prompt=a", "data.context_length=3"], "chooses other data"),
    ("digits", ["temperature=1"], 'temperature=1 goes with prompt="…"'),
    ("gan", ["checkpoint=last", "num_samples=0"], "num_samples=0: give a number from 1"),
    ("digits", ["promt=a"], r"promt: no such argument; did you mean prompt\?"),
    ("digits", ["data.num_vla=3"], r"data\.num_vla: no such key; did you mean data\.num_val\?"),
    ("digits", ["out={empty}/p.cvs"], r"\.cvs is not written here; did you mean \.csv\?"),
    ("digits", ["out={empty}/p.png"], "num_samples=N is nothing for the run's model LeNet; it takes\n  in=test"),
    ("digits", ["in=test", "out={empty}/p.png"], r"\.png is not written here"),
    ("digits", ["seed=1"], "num_samples=N is nothing for the run's model LeNet"),
    ("digits", ["in=test", "seed=1"], 'seed=1 goes with prompt="…" or num_samples=N'),
    ("gan", ["checkpoint=last", "out={empty}/p.csv"], "nothing for the run's model GAN; it takes\n  num_samples=N"),
    ("gan", ["checkpoint=last", "num_samples=1", "out={empty}/p.csv"], r"\.csv is not written here.*\n.*\.png"),
    ("digits", ["out={empty}"], "no suffix is not written here"),
    ("digits", ["out={empty}/nowhere/p.csv"], "no such folder"),
    ("kinds", ["in={copy}", "out={copy}"], "is what is read: give another name"),
    ("digits", ["checkpoint=first"], "no checkpoint 'first'"),
    ("digits", ["run=nowhere"], "run=nowhere is no run directory"),
]


@pytest.mark.parametrize(("run", "words", "said"), COMMANDS, ids=[" ".join(words) for _, words, _ in COMMANDS])
def test_wrong_words_are_answered(
    run: str, words: list[str], said: str, runs: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    places = {"images": images, "copy": runs["copy"], "empty": tmp_path}
    before = runs["copy"].read_bytes()
    with pytest.raises(Exception, match=said) as told:
        predict(f"run={runs[run]}", *(word.format(**places) for word in words))
    assert len(str(told.value).splitlines()) <= 5
    assert runs["copy"].read_bytes() == before
    assert not list(tmp_path.iterdir())


def test_a_wrong_command_is_answered_before_torch(runs: dict[str, Path], tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(
        f"import runpy, sys\nsys.argv = ['predict.py', 'run={runs['digits']}', 'in=tset']\n"
        "try: runpy.run_path('scripts/predict.py', run_name='__main__')\n"
        "finally: assert not {'torch', 'pytorch_lightning', 'polars'} & set(sys.modules)\n"
    )
    done = run_script(str(probe), timeout=30)
    assert done.returncode == 2
    assert done.stderr.startswith("error: in=tset: no such file; did you mean test?")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_shows_a_table_and_no_warning(runs: dict[str, Path]) -> None:
    done = run_script("scripts/predict.py", f"run={runs['kinds']}", f"in={runs['copy']}", timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(r"label.*probability.*target.*p_cat", done.stdout)
    assert "120 rows of 7 columns in all" in done.stdout


def test_a_symbolic_link_to_the_input_is_not_written_over(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(runs["copy"])
    with pytest.raises(UserError, match="is what is read"):
        read_request([f"run={runs['kinds']}", f"in={runs['copy']}", f"out={tmp_path}/link.csv"])


def _stop_after(_: int) -> None:
    raise KeyboardInterrupt


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as partial:
        _stop_after(partial.write_text("half"))
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["p.csv"]


def test_a_table_is_written_by_its_suffix(tmp_path: Path) -> None:
    values = {"a": [1.5, float("nan")], "b": ["x,é", None], "c": [[1, 2], []]}
    for suffix in ("csv", "jsonl", "txt"):
        write_table(tmp_path / f"p.{suffix}", polars.DataFrame(values), ["b", "c"])
    assert [list(row.values()) for row in rows_of(tmp_path / "p.csv")] == [["1.5", "x,é", "[1, 2]"], ["NaN", "", "[]"]]
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert lines == [{"a": 1.5, "b": "x,é", "c": [1, 2]}, {"a": None, "b": None, "c": []}]
    assert (tmp_path / "p.txt").read_text() == "x,é\t[1, 2]\n\t[]\n"


def test_a_prompt_can_be_tokens_where_there_is_no_text() -> None:
    model = GPT(vocab_size=8, context_length=4, embed_dim=8, num_layers=1, num_heads=2).eval()
    assert model.complete("0 7 3", None, num_tokens=1, temperature=0.0).startswith("0 7 3 ")
    for prompt in ("0 8", "a", "-1", " "):
        with pytest.raises(UserError, match="the run's data is no text: give its tokens"):
            model.complete(prompt, None)
