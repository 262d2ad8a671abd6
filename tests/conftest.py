"""What the tests share: composed configs, small data, and runs of the command line."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from lab.engine.cli.arguments import hydra_arguments
from lab.engine.cli.command import check_command
from lab.engine.cli.errors import report
from lab.engine.runs.run import Run
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import CONFIGS, ROOT
from tests.processes import Forked, forked

SMALL = ["data.num_samples=600", "data.num_val=100"]  # of digits: drawn in a blink
GENERATED = [*SMALL, "data.num_test=100"]  # of every other dataset that has such keys
SMALL_DATA = {
    "digits": [*SMALL, "data.eval_batch_size=100"],
    "mnist": ["data.eval_batch_size=100"],
    "text": ["data.num_tokens=20000"],
    "tokens": ["data.path=${paths.data_dir}/tokens.npy"],
    "csv": ["data.path=${paths.data_dir}/table.csv", "data.target=kind"],
    "huggingface": [
        "data.path=${paths.data_dir}/saved_pictures", "data.input=image", "data.target=label",
        "data.image_shape=[1,28,28]", "data.eval_batch_size=10",
    ],
    "image_folder": ["data.path=${paths.data_dir}/pictures", "data.image_shape=[1,28,28]", "data.num_workers=0"],
    "torchvision": ["data.name=FakeData", "data.image_shape=[1,28,28]", "data.options={size:60}", "data.num_workers=0"],
}  # fmt: skip
# What a file's `dims` hold that are read from the data
OFFERS = {
    "csv": {"features", "classes"},
    "huggingface": {"image_shape", "pixel_mean_std", "sequence", "features", "classes"},
    "image_folder": {"image_shape", "features", "sequence", "classes"},
    "torchvision": {"image_shape", "features", "sequence", "classes"},
}
SMALL_MODEL = {"vae": ["model.nll_samples=10"]}

Compose = Callable[..., DictConfig]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def choices(group: str) -> list[str]:
    """Every file of a config group: a new one is tested because it is there."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def with_dims(group: str) -> list[str]:
    """The datasets that offer `dims`, or the models that read some: of others nobody knows what fits them."""
    texts = {name: (CONFIGS / group / f"{name}.yaml").read_text() for name in choices(group)}
    return [name for name, text in texts.items() if re.search(r"^dims:|\$\{dims\.", text, re.MULTILINE)]


def fits(model: str, data: str) -> bool:
    """Whether the dataset's file offers what the model's file asks for; of one's own data, as `SMALL_DATA` has it."""
    needs = set(re.findall(r"dims\.(\w+)", (CONFIGS / "model" / f"{model}.yaml").read_text()))
    offers = OFFERS.get(data) or OmegaConf.load(CONFIGS / "data" / f"{data}.yaml").dims.keys()
    return needs <= set(offers)


def small(model: str, data: str) -> list[str]:
    """Overrides that make a run of this model on this dataset quick; skips the test where a package is missing."""
    if data == "huggingface":
        pytest.importorskip("datasets")
    keys = OmegaConf.load(CONFIGS / "data" / f"{data}.yaml").data.keys()
    generated = [word for word in GENERATED if word.removeprefix("data.").partition("=")[0] in keys]
    return [
        f"model={model}",
        f"data={data}",
        "data.batch_size=16",
        *SMALL_DATA.get(data, generated),
        *SMALL_MODEL.get(model, []),
        *(
            ["callbacks.generative_metrics=null", "objective=null"]
            if (model, data) in (("gan", "mnist"), ("gan", "huggingface"))
            else []
        ),  # its judge would take a minute, and cannot read what is not in memory
        *(["data.target=weight", "data.task=regression"] if data == "csv" and fits(model, "linear") else []),
    ]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets of this session, with a table of three kinds of things in table.csv, and pictures of them."""
    folder = tmp_path_factory.mktemp("data")
    rows = [f"{i % 3 + i / 100},{2000 + (i * 7) % 11},{'abc'[i % 3]}" for i in range(90)]
    (folder / "table.csv").write_text("\n".join(["size,weight,kind", *rows, ""]))
    save_pictures(folder / "saved_pictures")
    draw_pictures(folder / "pictures", 60)
    np.save(folder / "tokens.npy", np.arange(20_000, dtype=np.uint16) % 300)
    (folder / "tokens.json").write_text('{"vocab_size": 300}')
    return folder


def save_pictures(folder: Path, size: int = 28, count: int = 90) -> Path:
    """Writes three kinds of pictures as `Dataset.save_to_disk` does; without pyarrow what they are alone."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": CLASSES}}
    folder.mkdir()
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    state: dict[str, Any] = {"_data_files": [{"filename": "rows.arrow"}], "_fingerprint": "0", "_split": None}
    state |= {"_format_type": None, "_format_kwargs": {}, "_format_columns": None, "_output_all_columns": False}
    (folder / "state.json").write_text(json.dumps(state))
    with suppress(ImportError):
        import pyarrow as pa

        labels, images = [i % 3 for i in range(count)], []
        for i, label in enumerate(labels):
            Image.fromarray(np.full((size, size), 80 * label + i % 60, np.uint8)).save(file := BytesIO(), "png")
            images.append({"bytes": file.getvalue(), "path": None})
        kinds = [pa.struct({"bytes": pa.binary(), "path": pa.string()}), pa.int64()]
        table = pa.table([pa.array(images, kinds[0]), pa.array(labels, kinds[1])], names=list(features))
        with pa.OSFile(f"{folder}/rows.arrow", "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write(table)
    return folder


def draw_pictures(folder: Path, number: int, classes: Sequence[str] = ("a", "b", "c")) -> None:
    """Writes grey noise as PNG files to a folder for each class, the brighter the later the class."""
    noise = np.random.default_rng(0)
    for i in range(number):
        pixels = noise.integers(60, size=(20, 24), dtype=np.uint8) + 60 * (i % len(classes))
        path = folder / classes[i % len(classes)] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)  # what a test draws does not depend on those before it


@pytest.fixture(autouse=True)
def _fresh_hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


@pytest.fixture
def cfg(tmp_path: Path, data_dir: Path) -> Compose:
    """Composes the config as the command line does, its paths under `tmp_path`."""

    def make(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose(
                "train",
                [
                    f"paths.data_dir={data_dir}",
                    f"paths.log_dir={tmp_path}",
                    f"paths.run_dir={tmp_path}/run",
                    *overrides,
                ],
            )

    (tmp_path / "run").mkdir()
    return make


def copy_checkout(folder: Path) -> Path:
    """Copies what a checkout runs by into `folder`, for packages and configs that must not lie in this one."""
    for name in ("src", "configs", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run_script(script: str, *words: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
    """Runs a script of the project in a fresh process, warnings shown."""
    environment = os.environ | {"PYTHONWARNINGS": "default", "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        cwd=ROOT,
        check=False,
    )


@pytest.fixture
def train_command(tmp_path: Path, data_dir: Path) -> Command:
    """`python src/train.py …` in a process of its own, its paths under `tmp_path`."""

    def run(*overrides: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
        paths = {"paths.data_dir": data_dir, "paths.log_dir": f"{tmp_path}/logs"}
        given = {override.partition("=")[0] for override in overrides}
        added = [f"{key}={path}" for key, path in paths.items() if key not in given]
        return run_script("src/train.py", *overrides, *added, timeout=timeout)

    return run


@pytest.fixture(scope="module")
def run_forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """`run_script` in a fork of a process that has imported torch: its status and what it says; see `forked`."""
    with forked(ROOT, tmp_path_factory.mktemp("cwd")) as run:
        yield run


def accepted(*words: str) -> None:
    """Asks what `src/train.py …` asks before it trains, in this process."""
    check_command(hydra_arguments(words, {}))


def refusal(*words: str) -> str:
    """What a wrong command line is answered before anything is written, in this process; its exit status is 2."""
    with pytest.raises(UserError) as told:
        accepted(*words)
    assert report(told.value) == 2
    return str(told.value)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that must not come to be."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "hostile code has run"


def train_each(commands: dict[str, list[str]], folder: Path, data_dir: Path) -> dict[str, Path]:
    """Runs `src/train.py` for each of the named `commands`, one after the other in a process: their directories."""
    paths = [f"paths.data_dir={data_dir}", f"paths.log_dir={folder}", "trainer=cpu", "logger=none"]
    words = {name: [*paths, f"hydra.run.dir={folder}/{name}", *command] for name, command in commands.items()}
    probe = folder / "train_each.py"
    probe.write_text(
        "import runpy, sys\n"
        f"for words in {list(words.values())!r}:\n"
        "    sys.argv = ['train.py', *words]\n"
        f"    runpy.run_path({str(ROOT / 'src' / 'train.py')!r}, run_name='__main__')\n"
    )
    done = run_script(str(probe))
    assert done.returncode == 0, done.stderr
    return {name: folder / name for name in commands}


CLASSES = ["cat", "dog", "owl"]


def animals(rows: int) -> str:
    """Three kinds of animals: words, booleans, numbers, and gaps in each."""
    lines = ["size,colour,tame,born,kind,weight"]
    for i in range(rows):
        size, colour = f"{i % 3 + i / 100:.3f}", ("red", "green", "blue", "")[i * 7 % 4]
        born = "" if i % 13 == 0 else 2000 + i % 11
        lines.append(f"{size},{colour},{str(i % 2 == 0).lower()},{born},{CLASSES[i % 3]},{30 + i % 3 + i % 2 / 4}")
    return "\n".join([*lines, ""])


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> dict[str, Path]:
    """Directories of small runs; the training file of the tables is gone, and `copy` a copy of it."""
    folder = tmp_path_factory.mktemp("runs")
    path = folder / "animals.csv"
    path.write_text(animals(120))
    shutil.copy(path, folder / "copy.csv")
    csv_file = ["data=csv", f"data.path={path}", "trainer.max_epochs=3", "optimizer.lr=1e-2"]
    short = ["trainer.max_epochs=1"]
    commands = {
        "kinds": [*csv_file, "model=mlp", "data.target=kind", "data.drop=[weight]"],
        "weights": [*csv_file, "model=mlp_regressor", "data.target=weight", "data.drop=[kind]"],
        "digits": [*short, *SMALL, "model=lenet"],
        "text": [*short, "model=gpt", "data=text", "data.num_tokens=20000", "data.context_length=16"],
        "gan": [*short, *SMALL, "model=gan", "callbacks.generative_metrics=null", "objective.metric=train/loss_g"],
        "sgd": [
            *short, *SMALL, "model=mlp", "optimizer=sgd", "optimizer.lr=0.05", "seed=3", "hydra.output_subdir=null",
        ],
        **{  # two in a log directory of their own
            f"pair/{model}": [
                *SMALL, f"model={model}", "trainer.max_epochs=2", "data.batch_size=50", f"paths.log_dir={folder}/pair",
            ]
            for model in ("mlp", "lenet")
        },
    }  # fmt: skip
    found = train_each(commands, folder, data_dir)
    reference = Run.open(found["kinds"]).datamodule()
    reference.setup("fit")  # type: ignore[attr-defined]
    torch.save({name: x for name, (x, _) in reference.splits.items()}, folder / "kinds.pt")  # type: ignore[attr-defined]
    path.unlink()
    return found | {"copy": folder / "copy.csv"}
