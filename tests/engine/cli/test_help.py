"""The help names what is there, at once; what it shows runs."""

import re
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.engine.cli.command import check_command
from lab.engine.cli.help import EXAMPLES, FLAGS, KEYS, answer_help, help_text
from lab.engine.compat.hydra import argument_parser
from lab.engine.config.compose import compose, get
from lab.engine.utils.paths import ROOT
from tests.conftest import choices, run_script

COMMANDS = re.findall(r"^  (python src/train\.py.*)$", EXAMPLES, re.MULTILINE)
assert len(COMMANDS) == 5
GROUPS = [
    *("data", "model", "optimizer", "scheduler", "trainer", "callbacks", "logger", "experiment", "debug", "sweep"),
    *("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler", "hydra/sweeper/pruner"),
]


def listed(text: str) -> dict[str, list[str]]:
    """The choices of each group, as a reader of a help without line breaks finds them."""
    rows = re.findall(r"^  ([a-z/]+) +(.*)$", text, re.MULTILINE)
    return {group: choices.split(", ") for group, choices in rows}


def test_every_choice_is_listed_and_the_default_marked() -> None:
    found = listed(help_text(10_000))
    composed = [compose(words, hydra=True).hydra.runtime.choices for words in ([], ["hydra/sweeper=optuna"])]
    for group in GROUPS:
        names = [name.removesuffix(" (default)") for name in found[group]]
        assert set(names) - {"basic"} == set(choices(group)), group
        chosen = composed[group in ("hydra/sweeper/sampler", "hydra/sweeper/pruner")][group]
        assert [name for name in names if name not in found[group]] == ([chosen] if chosen else []), group


def test_a_new_group_is_listed_and_one_of_a_single_file_is_not(tmp_path: Path) -> None:
    for name in ("tokenizer/bytes", "model/mine", "experiment/deep/mine"):
        (tmp_path / f"{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text("{not yaml")  # nobody reads it
    found = listed(help_text(10_000, tmp_path))
    assert found["tokenizer"] == ["bytes"]
    assert {"mine", "lenet (default)"} <= set(found["model"])
    assert "paths" not in found


@pytest.mark.parametrize("flags", [["--config-dir", "DIR"], ["--config-dir=DIR"], ["-cd", "DIR", "-m"]], ids=" ".join)
def test_choices_of_another_folder_are_listed(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a_model_of_mine.yaml").touch()
    with pytest.raises(SystemExit) as end:
        answer_help([*[flag.replace("DIR", str(tmp_path)) for flag in flags], "--help"])
    assert not end.value.code
    assert "a_model_of_mine" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_keep_to_the_terminal(width: int) -> None:
    for line in help_text(width).splitlines():
        assert len(line) <= width or line.startswith("  python src/train.py")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_right_as_printed(command: str) -> None:
    check_command(shlex.split(command)[2:])


def test_keys_and_flags_are_there() -> None:
    for key in KEYS:
        assert get(compose([]), key.partition("=")[0]) is not None or "resume" in key
    known = {option for action in argument_parser()._actions for option in action.option_strings}
    for flags in FLAGS:
        assert {word for word in re.split(r"[ ,]+", flags) if word.startswith("-")} <= known


def test_every_script_and_page_is_named() -> None:
    text = help_text(10_000)
    scripts = [path for path in ROOT.glob("scripts/*.py") if '__name__ == "__main__"' in path.read_text()]
    for path in [*scripts, *ROOT.glob("docs/*.md")]:
        assert re.search(rf"^  {re.escape(path.relative_to(ROOT).as_posix())} +\w", text, re.MULTILINE), path


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["model=mlp", "seed=1", "--help"], ["-m", "-h", "no=such"]])
def test_the_command_prints_it(arguments: list[str]) -> None:
    shown = run_script("src/train.py", *arguments, timeout=60)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.rstrip() == help_text(200).rstrip()


def test_neither_hydra_nor_torch_is_loaded(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print({'hydra', 'omegaconf', 'torch'} & {*sys.modules}))\n"
        "runpy.run_path('src/train.py', run_name='__main__')\n"
    )
    assert run_script(str(probe), "--help").stdout.splitlines()[-1] == "set()"


def test_it_takes_no_longer_than_importing_hydra() -> None:
    """Side by side, since the machine may be busy."""
    seconds: dict[str, list[float]] = {"hydra": [], "help": []}
    for _ in range(5):
        for name, command in (("hydra", ["-c", "import hydra"]), ("help", ["src/train.py", "--help"])):
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, cwd=ROOT, check=True)
            seconds[name].append(time.perf_counter() - began)
    assert statistics.median(seconds["help"]) <= statistics.median(seconds["hydra"]) + 0.3
