"""A folder of pictures: found, split, read and augmented as it should be, and what is wrong with one told at once."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

from lab.data.draws import Draws
from lab.data.image_folder import ImageFolder
from lab.data.image_index import class_names, dims, find_pictures
from lab.data.image_loaders import crop_and_flip
from lab.data.images import read_image
from lab.engine.utils.errors import RunFailed, UserError
from tests.conftest import draw_pictures, refusal, run_script, train_each


def folder(path: Path, number: int = 60, **options: Any) -> Path:
    draw_pictures(path, number, **options)
    return path


def data(path: Path, **options: Any) -> ImageFolder:
    found = ImageFolder(str(path), **{"image_shape": (1, 20, 24), "num_workers": 0, "batch_size": 8} | options)
    found.setup("fit")
    return found


def everything(loader: Any) -> list[torch.Tensor]:
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


def files(found: ImageFolder) -> dict[str, set[str]]:
    """The pictures of each split, below the folder."""
    splits = {}
    for name, part in found.datasets.items():
        whole: Any = getattr(part, "dataset", part)
        rows = getattr(part, "indices", range(len(whole)))
        splits[name] = {str(Path(whole.files[i]).relative_to(found.path)) for i in rows}
    return splits


def test_classes_and_labels_are_those_of_torchvision(tmp_path: Path) -> None:
    root = folder(tmp_path / "own", classes=("owl", "Cat", "10", "9"))
    theirs = datasets.ImageFolder(root)
    found = data(root, val_fraction=0, test_fraction=0)
    assert found.classes == theirs.classes
    ours = found.datasets["train"]
    assert list(zip(ours.files, ours.labels, strict=True)) == theirs.samples  # type: ignore[attr-defined]
    assert dims(root, None, [3, 20, 24], None, None) == {"image_shape": [3, 20, 24], "features": 1440, "classes": 4}


def test_each_split_has_its_share_of_every_class(tmp_path: Path) -> None:
    root = folder(tmp_path / "own")
    splits = files(data(root))
    assert {name: len(part) for name, part in splits.items()} == {"train": 48, "val": 6, "test": 6}
    for part in splits.values():
        counts = [sum(file.startswith(name) for file in part) for name in "abc"]
        assert len({*counts}) == 1, "stratified"
    assert len(set.union(*splits.values())) == 60
    assert splits == files(data(root))
    assert splits != files(data(root, seed=1))


def test_folders_of_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    for name, number in (("train", 30), ("val", 9), ("test", 12)):
        folder(tmp_path / name, number)
    whole = files(data(tmp_path))
    assert {name: len(part) for name, part in whole.items()} == {"train": 30, "val": 9, "test": 12}
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    splits = files(data(tmp_path))
    assert {name: len(part) for name, part in splits.items()} == {"train": 27, "val": 3, "test": 12}
    assert splits["train"] | splits["val"] == whole["train"]


def test_a_table_of_labels(tmp_path: Path) -> None:
    root = folder(tmp_path / "own", 30)
    rows = [f"{path.relative_to(root)},{'even' if int(path.stem) % 2 == 0 else 'odd'}" for path in root.rglob("*.png")]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows[:20], ""]))
    found = data(root, labels=str(tmp_path / "labels.csv"))
    assert found.classes == ["even", "odd"]
    assert sum(len(part) for part in files(found).values()) == 20
    train = found.datasets["train"]
    for i in train.indices:  # type: ignore[attr-defined]
        whole = train.dataset  # type: ignore[attr-defined]
        assert whole.labels[i] == int(Path(whole.files[i]).stem) % 2
    assert dims(root, str(tmp_path / "labels.csv"), [1, 4, 4], 0.5, 0.2) == {
        "image_shape": [1, 4, 4], "features": 16, "sequence": [4, 4], "pixel_mean_std": [0.5, 0.2], "classes": 2,
    }  # fmt: skip


def test_pixels_are_normalised_by_training_pixels(tmp_path: Path) -> None:
    root = folder(tmp_path / "own", classes=("a", "b"))
    found = data(root, image_shape=(3, 20, 24))
    images, labels = everything(found.eval_dataloader("train"))
    assert images.shape == (48, 3, 20, 24)
    assert labels.tolist() == [["a", "b"].index(file[0]) for file in sorted(files(found)["train"])]
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    given, _ = everything(data(root, mean=0.5, std=[0.25]).eval_dataloader("train"))
    with Image.open(root / min(files(found)["train"])) as picture:
        expected = (np.asarray(picture) / 255 - 0.5) / 0.25
    torch.testing.assert_close(given[0, 0], torch.from_numpy(expected).float())


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (30, 30)])
def test_a_picture_is_resized_as_torchvision_does(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    smooth = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    picture = Image.fromarray(smooth)
    stretched = v2.functional.pil_to_tensor(v2.functional.resize(picture, [16, 16]))
    assert torch.equal(read_image(tmp_path / "a.png", (3, 16, 16), "stretch"), stretched)
    cut = v2.functional.center_crop(v2.functional.resize(picture, [16]), [16, 16])
    found = read_image(tmp_path / "a.png", (3, 16, 16), "crop")
    difference = (found.int() - v2.functional.pil_to_tensor(cut).int()).abs()
    assert difference.float().mean() < 4, "which rounds to whole pixels in between"


def test_each_image_is_shifted_and_mirrored_by_itself() -> None:
    images = torch.randint(1, 256, (64, 3, 8, 9), dtype=torch.uint8)
    found = crop_and_flip(images, Draws(torch.arange(64), 0), padding=2, flip=True)
    seen = set()
    for image, cut in zip(images, found, strict=True):
        padded = v2.functional.pad(image, [2])
        at = [
            (y, x, mirrored)
            for y in range(5)
            for x in range(5)
            for mirrored in (False, True)
            if torch.equal(cut.flip(-1) if mirrored else cut, padded[:, y : y + 8, x : x + 9])
        ]
        assert len(at) == 1
        seen.add(at[0])
    assert len(seen) > 30
    assert torch.equal(crop_and_flip(images, Draws(torch.arange(64), 0), padding=2, flip=True), found)
    assert torch.equal(crop_and_flip(images, Draws(torch.arange(64), 0), padding=0, flip=False), images)


def test_training_pictures_are_augmented_and_no_others(tmp_path: Path) -> None:
    root = folder(tmp_path / "own")
    plain, augmented = data(root), data(root, flip=True, crop_padding=2)
    first, second = (everything(each.train_dataloader())[0] for each in (plain, augmented))
    assert not torch.equal(first, second)
    assert torch.equal(*(everything(each.val_dataloader())[0] for each in (plain, augmented)))


@pytest.mark.slow
def test_a_run_is_resumed_on_its_pictures_alone_and_evaluated_on_others(tmp_path: Path, data_dir: Path) -> None:
    root = folder(tmp_path / "own")
    words = ["data=image_folder", f"data.path={root}", "data.image_shape=[1,28,28]", "data.batch_size=16"]
    words += ["data.flip=true", "model=lenet", "trainer.max_epochs=1"]
    (tmp_path / "logs").mkdir()
    run = train_each({"run": words}, tmp_path / "logs", data_dir)["run"]

    def ask(script: str, *words: str) -> str:
        said = run_script(script, *words)
        return f"{said.returncode} {said.stdout}{said.stderr}"

    assert ask("src/train.py", f"resume={run}", "trainer.max_epochs=2")[0] == "0"
    other = folder(tmp_path / "other" / "test", 12, classes=("b", "c"))
    assert ask("scripts/evaluate.py", f"run={run}", f"data.path={other.parent}")[0] == "0"
    folder(tmp_path / "strange", 12, classes=("b", "cc"))
    whole = ["data.test_fraction=1", "data.val_fraction=0"]
    said = ask("scripts/evaluate.py", f"run={run}", f"data.path={tmp_path}/strange", *whole)
    assert said[0] == "2", said
    assert "of the class cc, which is none of the training pictures'" in said
    (root / "a" / "0.png").unlink()
    said = ask("src/train.py", f"resume={run}", "trainer.max_epochs=3")
    assert said[0] == "2", said
    assert f"{root} is not the folder that this run was trained on" in said
    root.rename(tmp_path / "gone")
    out = tmp_path / "predictions.csv"
    assert ask("scripts/predict.py", f"run={run}", f"in={other}/b", f"out={out}")[0] == "0"
    assert out.read_text().splitlines()[0] == "file,label,probability,p_a,p_b,p_c"
    assert len(out.read_text().splitlines()) == 7


def spoil(root: Path) -> None:
    """Damages two pictures."""
    (root / "a" / "0.png").write_bytes((root / "a" / "0.png").read_bytes()[:100])
    (root / "c" / "5.png").write_text("no picture")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_named(num_workers: int, tmp_path: Path) -> None:
    root = folder(tmp_path / "own")
    spoil(root)
    found = data(root, val_fraction=0, test_fraction=0, mean=0.5, std=0.5, num_workers=num_workers)
    with pytest.raises(RunFailed, match=r"own/(a/0|c/5).png cannot be read.*\ndata.unreadable=skip") as told:
        everything(found.train_dataloader())
    assert len(str(told.value).splitlines()) == 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_pictures_that_cannot_be_read_are_left_out_and_counted(
    num_workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path / "own")
    spoil(root)
    found = data(root, unreadable="skip", num_workers=num_workers)
    assert set.union(*files(found).values()) == {
        str(path.relative_to(root)) for path in root.rglob("*.png") if path.name not in ("0.png", "5.png")
    }
    assert "left out 2 of 60 pictures" in caplog.text
    assert "a/0.png" in caplog.text
    assert "c/5.png" in caplog.text


def nothing(root: Path) -> None:
    root.mkdir()


def flat(root: Path) -> None:
    folder(root, 3, classes=("a",))
    for path in root.rglob("*.png"):
        path.rename(root / path.name)
    (root / "a").rmdir()


def one_class(root: Path) -> None:
    folder(root, 3, classes=("cat",))


BAD: list[tuple[Callable[[Path], Any], dict[str, Any], list[str]]] = [
    (nothing, {}, ["has no folders of classes", "pictures in it: 0", "data.labels"]),
    (flat, {}, ["has no folders of classes", "pictures in it: 3"]),
    (one_class, {}, ["one class, cat"]),
    (folder, {"path": "onw"}, ["onw: no such", "did you mean own?"]),
    (folder, {"path": "own/a/0.png"}, ["is a file: give a folder"]),
    (folder, {"labels": "file,lable\na/0.png,x\n"}, ["no column label; did you mean lable?"]),
    (folder, {"labels": "file,label\na/0.png,x\na/99.png,y\n"}, ["names a/99.png", "did you mean"]),
    (folder, {"labels": "file,label\na/0.png,x\nb/1.png,\n"}, ["row 2", "has no label"]),
    (folder, {"labels": "file,label\na/0.png,x\nb/1.png,x\n"}, ["one class, x"]),
]


@pytest.mark.parametrize(("make", "given", "said"), BAD, ids=[said[0][:30] for *_, said in BAD])
def test_what_is_wrong_with_a_folder_is_told(
    make: Callable[[Path], Any], given: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    make(tmp_path / "own")
    words = [f"data.path={tmp_path / given.get('path', 'own')}"]
    if "labels" in given:
        (tmp_path / "labels.csv").write_text(given["labels"])
        words.append(f"data.labels={tmp_path}/labels.csv")
    answer = refusal("data=image_folder", "model=cnn", *words, f"paths.log_dir={tmp_path}/logs")
    for part in said:
        assert part in answer, answer
    assert not (tmp_path / "logs").exists()


def test_a_class_without_pictures_is_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "own")
    (root / "empty").mkdir()
    with pytest.raises(UserError, match=r"own/empty holds no picture \(.png, .jpg, .jpeg\)"):
        find_pictures(root)
    (root / "empty").rename(root / ".hidden")
    assert class_names(root) == ["a", "b", "c"]
    (root / "a" / "notes.txt").touch()
    assert len(find_pictures(root)["train"]) == 60


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"image_shape": (2, 8, 8)}, "1 channel or 3"),
    ({"mean": 0.5}, "give mean and std"),
    ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "one number or 1 each"),
    ({"val_fraction": 0.6, "test_fraction": 0.4}, "none for train"),
]


@pytest.mark.parametrize(("options", "said"), OPTIONS)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        data(folder(tmp_path / "own"), **options)


def test_equal_pixels_have_deviation_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("L", (8, 8), 51).save(tmp_path / name / f"{i}.png")
    found = data(tmp_path, image_shape=(1, 8, 8))
    assert found.preparation["mean"] == [pytest.approx(0.2)]
    assert found.preparation["std"] == [1.0]
    assert all(math.isfinite(x) for x in everything(found.train_dataloader())[0].flatten().tolist())
