"""Every command and every snippet of README, CONTRIBUTING and docs/ is right.

Command lines of `src/train.py` are checked in this process, as the command itself does before torch loads; the machine
seems to have four GPUs. README's tour, its files to copy, and the pages that need runs are run for real, in a copy of
the checkout without a network, each training shortened to two batches an epoch.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.engine.utils import machine
from lab.engine.utils.paths import CONFIGS, ROOT
from tests.conftest import accepted, animals, draw_pictures, save_pictures

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
TRAIN = ["python", "src/train.py"]
IN_PROSE = r"`((?:python|make|pip|source|pre-commit) [^`]+)`"
FILE = r"(?:# @package _global_\n)?# ((?:src|configs)/\S+)\n"
# Run for real, all of them: these pages build upon the runs that their own commands leave
RUN = [
    "README.md",
    *(f"docs/{page}.md" for page in ("images", "runs", "own-code", "fine-tuning", "results", "large-data")),
]
RUN_OF_SWEEPS = (
    "sweep=small hydra.sweeper.timeout",
    "sweep.resume",
    "-m model=mlp,lenet 'seed=range(3)'",
    "compare.py",
)
# Not run here, and why
ELSEWHERE = {
    r"python src/train\.py resume=latest": "needs a run that was stopped, as tests/engine/runs/test_resume.py has",
    r"python scripts/compare\.py diff RUN RUN": "RUN is any run; tests/engine/analysis has two",
    r"python src/train\.py data=torchvision data\.name=Flowers102 .*": "needs a network",
    r"python benchmarks/image_folder\.py 5000": "takes minutes",
    r"python benchmarks/tokens\.py \w+": "takes minutes",
}
SHORT = ["trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages, in their order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> list[str]:
    """The command lines of a page: those of its bash blocks, then those in the text."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    typed = [shlex.join(shlex.split(line, comments=True)) for line in [*lines, *re.findall(IN_PROSE, prose)]]
    return list(dict.fromkeys(filter(None, typed)))


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def files(page: Path) -> dict[str, str]:
    """The files that a page shows whole, each with its path in the first line, or below Hydra's `# @package`."""
    found = [re.match(FILE, text) for text in blocks(page, "python", "yaml")]
    return {match[1]: match.string for match in found if match}


OWN = {path: text for page in PAGES for path, text in files(page).items()}
OWN_CLASSES = [
    f"{Path(path).parent.name}={Path(path).stem}"
    for path in OWN
    if path.startswith(("configs/model/", "configs/data/"))
]
COMMANDS = [(name(page), command) for page in PAGES for command in commands(page)]


def trained(command: str) -> list[str] | None:
    """What follows `python src/train.py` in a command, whoever starts it; None where nothing is trained."""
    words = shlex.split(command)
    return words[words.index("src/train.py") + 1 :] if "src/train.py" in words else None


def needs_more(words: list[str]) -> bool:
    """Whether a command line is right only where a run, or a class of one's own, is there: it is run for real."""
    more = ("resume=latest", "sweep.resume=", "weights=", "experiment=mnist_from_digits")
    return any(word.startswith(more) or word in OWN_CLASSES for word in words)


def test_readme_has_at_most_120_lines() -> None:
    assert len(README.read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_there(page: Path) -> None:
    """Programs, scripts, targets of make, extras of pip; command lines of src/train.py have tests of their own."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in commands(page):
        words = shlex.split(command)
        if words[0] == "make":
            named = [word for word in words[1:] if "=" not in word]
            assert {*named} <= targets, command
            assert named or words[1].startswith("PYTHON="), command
        elif words[:4] == ["pip", "install", "-e", words[-1]]:
            assert re.fullmatch(r"\.\[(\w+)\]", words[-1])[1] in extras, command
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), command
        else:
            started = words[:1] in (["exec"], ["srun"], ["torchrun"]) and "src/train.py" in words
            assert started or command in ("source .venv/bin/activate", "pre-commit install"), command


def test_every_command_is_checked_or_run() -> None:
    for page, command in COMMANDS:
        words = trained(command)
        if is_elsewhere(command) or is_run(page, command):
            continue
        assert not command.startswith("python scripts/"), f"{page}: {command} is not run"
        assert words is None or not needs_more(words), f"{page}: {command} needs a run, and {page} is not run"


def checked() -> list[Any]:
    """The commands that train and need no run; of all but README's, two of three are left to make test-all."""
    found = {command: (page, words) for page, command in COMMANDS if (words := trained(command)) is not None}
    return [
        pytest.param(
            words,
            id=command,
            marks=pytest.mark.slow if page != "README.md" and ("sweep" in command or i % 3) else [],
        )
        for i, (command, (page, words)) in enumerate(found.items())
        if not needs_more(words)
    ]


@pytest.mark.parametrize("words", checked())
def test_a_command_line_is_accepted(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 4)
    write(tmp_path, {path: text for path, text in OWN.items() if path.endswith(".yaml")})
    provide(tmp_path)
    monkeypatch.chdir(tmp_path)
    accepted("--config-dir", "configs", *words, f"paths.log_dir={tmp_path}/logs")


def test_settings_of_the_project_are_those_that_it_reads() -> None:
    [shown] = [tomllib.loads(text) for page in PAGES for text in blocks(page, "toml")]
    real = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {*shown["tool"]["lab"]} <= {*real["tool"]["lab"]}
    assert shown["tool"]["lab"]["resolvers"].items() <= real["tool"]["lab"]["resolvers"].items()


def test_files_to_copy_are_new_and_named() -> None:
    for page in PAGES:
        for text in blocks(page, "yaml"):
            assert re.match(FILE, text), f"{name(page)}: no line names the file\n{text}"
    for path in OWN:
        assert not (ROOT / path).exists(), path
        assert (ROOT / path).parent.is_dir() or path.startswith("src/mine/"), path


def test_the_notebook_is_saved_without_outputs() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


# --- run for real ---------------------------------------------------------------------------------------------------


def write(folder: Path, texts: dict[str, str]) -> None:
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def provide(folder: Path) -> None:
    """Makes what the pages read as one's own: a table, a text, token files, pictures, a saved dataset."""
    (folder / "iris.csv").write_text(animals(60).replace("kind", "species"))
    (folder / "book.txt").write_text("once upon a time " * 500)
    for name in ("tokens", "mine"):
        np.save(folder / f"{name}.npy", np.arange(20_000, dtype=np.uint16) % 300)
        (folder / f"{name}.json").write_text('{"vocab_size": 300}')
    save_pictures(folder / "saved_animals")
    for name in ("animals", "more_animals"):
        draw_pictures(folder / name, 60, ["cat", "dog", "owl"])
    rows = [f"{path.relative_to(folder / 'animals')},{path.parent.name}" for path in folder.glob("animals/*/*.png")]
    (folder / "animals.csv").write_text("\n".join(["file,label", *rows, ""]))
    (folder / "photos").mkdir()
    for i in range(2):
        Image.fromarray(np.full((28, 28), 100 * i, np.uint8)).save(folder / "photos" / f"{i}.png")


def provide_fashion(folder: Path) -> None:
    """Makes files that torchvision takes for Fashion-MNIST: noise, which is as good for two batches."""
    raw, noise = folder / "data" / "FashionMNIST" / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    for part, number in (("train", 60_000), ("t10k", 10_000)):
        for kind, shape, end in (("images-idx3", (number, 28, 28), 256), ("labels-idx1", (number,), 10)):
            head = np.array([0x800 + len(shape), *shape], dtype=">i4").tobytes()
            (raw / f"{part}-{kind}-ubyte").write_bytes(head + noise.integers(end, size=shape, dtype=np.uint8).tobytes())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with the files that the pages show."""
    folder = tmp_path_factory.mktemp("checkout")
    for each in ("src", "configs", "scripts", "tests"):
        shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    write(folder, OWN)
    provide(folder)
    provide_fashion(folder)
    return folder


def is_elsewhere(command: str) -> bool:
    return any(re.fullmatch(known, command) for known in ELSEWHERE)


def is_run(page: str, command: str) -> bool:
    if is_elsewhere(command):
        return False
    return page in RUN or (page == "docs/sweeps.md" and any(part in command for part in RUN_OF_SWEEPS))


def short(command: str) -> list[str] | None:
    """The words of a command that is run, its training shortened; None where it cannot be run here."""
    words = shlex.split(command)
    if words[0] != "python" or ("mnist" in command and "MNIST_MIRROR" not in os.environ):
        return None
    if words[:2] != TRAIN or any(word.startswith(("resume=latest", "sweep.resume=")) for word in words):
        return words[1:]
    given = {word.partition("=")[0] for word in words}
    if not given & {"data", "experiment", "sweep"} or "data=digits" in words or "digits_lenet" in command:
        words += ["data.num_samples=600", "data.num_val=100"]
    return [*words[1:], *SHORT, *([] if "trainer.max_epochs" in given else ["trainer.max_epochs=1"])]


def run(checkout: Path, *words: str) -> str:
    paths = {"PYTHONPATH": f"{checkout}/src:{checkout}"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env=os.environ | paths | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def play(checkout: Path, steps: list[list[str]]) -> str:
    """Runs scripts, each with its arguments, one after the other in one process: what they print."""
    shutil.rmtree(checkout / "logs", ignore_errors=True)
    driver = checkout / "driver.py"
    driver.write_text(
        "import runpy, sys\n"
        f"for words in {steps!r}:\n"
        "    sys.argv = words\n"
        "    print('>', *words, flush=True)\n"
        "    try:\n"
        "        runpy.run_path(words[0], run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        if end.code:\n"
        "            sys.exit(f'{words} ended with {end.code}')\n"
    )
    return run(checkout, str(driver))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tour_runs(checkout: Path) -> None:
    [_, tour] = blocks(README, "bash")
    lines = [shlex.join(shlex.split(line, comments=True)) for line in tour.splitlines()]
    assert len(lines) == 11  # the first activates the environment
    said = play(checkout, [words for line in lines if (words := short(line))])
    assert "resuming from" in said
    assert (checkout / "predictions.csv").read_text().startswith("index,label,probability")
    assert (checkout / "report" / "report.html").stat().st_size > 1000
    assert "largest difference from the model" in said


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [ROOT / page for page in (*RUN, "docs/sweeps.md")], ids=name)
def test_a_page_runs(page: Path, checkout: Path) -> None:
    """From top to bottom: its commands, those in the text too, and its Python, except files to copy."""
    steps: list[list[str]] = []
    found = rf"^```(bash|python)\n(.*?)^```$|{IN_PROSE}"
    for language, block, inline in re.findall(found, page.read_text(), re.MULTILINE | re.DOTALL):
        if language == "python" and not re.match(FILE, block):
            snippet = checkout / f"snippet_{len(steps)}.py"
            snippet.write_text(block)
            steps.append([str(snippet)])
        elif language != "python" and not (language and page == README):  # the tour
            lines = [shlex.join(shlex.split(line, comments=True)) for line in (block or inline).splitlines()]
            steps += [words for line in lines if line and is_run(name(page), line) and (words := short(line))]
    assert steps
    play(checkout, steps)


@pytest.mark.slow
def test_the_notebook_runs(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(checkout / "jupyter"))
    driver = checkout / "execute.py"
    driver.write_text(
        "import nbclient, nbformat\n"
        f"notebook = nbformat.read({str(NOTEBOOK)!r}, as_version=4)\n"
        "nbclient.NotebookClient(notebook, timeout=300, kernel_name='python3').execute()\n"
        "nbformat.write(notebook, 'executed.ipynb')\n"
    )
    run(checkout, str(driver))
    cells = {cell["id"]: cell for cell in json.loads((checkout / "executed.ipynb").read_text())["cells"]}
    shown = {name: json.dumps(cell.get("outputs")) for name, cell in cells.items()}
    assert "lab.models.mlp.MLP" in shown["compose"]
    assert "epoch 2/2" in shown["train"]
    assert f"<td>{(checkout / 'logs' / 'latest').resolve()}</td>" in shown["train"]
    assert "test/acc" in shown["metrics"]
    assert "application/vnd.plotly.v1+json" in shown["curves"]
    assert "tensor(" in shown["predict"]


@pytest.mark.slow
def test_tests_find_the_files_by_themselves(checkout: Path) -> None:
    said = run(
        checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(checkout), "-c", "pyproject.toml",
        *("tests/test_defaults.py", "tests/models/test_models.py", "tests/engine/config/test_validate.py"),
        *("-k", "(foo or optdigits or data-fashion or model-net) and not foo-fashion"),  # it would be downloaded
    )  # fmt: skip
    found = re.search(r"(\d+) passed", said)
    assert found
    assert int(found[1]) > 10


def test_the_pages_hold_the_choices_that_there_are() -> None:
    """Tables of groups, models and launchers name every choice."""
    page = {
        "training": ["data", "model", "optimizer", "scheduler", "trainer", "callbacks", "logger", "debug", "sweep"],
        "sweeps": ["hydra/launcher", "hydra/sweeper/sampler", "hydra/sweeper/pruner"],
    }
    for title, groups in page.items():
        text = (ROOT / "docs" / f"{title}.md").read_text()
        for group in groups:
            for path in (CONFIGS / group).glob("*.yaml"):
                assert re.search(rf"\b{path.stem}\b", text), f"docs/{title}.md does not name {group}={path.stem}"
