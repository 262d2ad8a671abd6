"""Prints the help of `src/train.py` from the names of config files; loads neither Hydra nor torch."""

import ast
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from textwrap import TextWrapper

from lab.engine.utils.errors import machine_failure
from lab.engine.utils.escape import printable
from lab.engine.utils.files import read_yaml
from lab.engine.utils.paths import CONFIGS, ROOT

USAGE = """\
lab trains any model on any dataset that fits it.

  python src/train.py [FLAG ...] [GROUP=CHOICE ...] [KEY=VALUE ...]
"""
EXAMPLES = """\
Examples:
  # LeNet on generated digits
  python src/train.py
  # another model on another dataset
  python src/train.py data=mnist model=cnn trainer.max_epochs=5
  # a published result
  python src/train.py experiment=mnist_lenet seed=1
  # a sweep: every combination
  python src/train.py -m model=mlp,lenet optimizer.lr=1e-3,3e-3 'seed=range(3)'
  # one batch of everything, as a quick check
  python src/train.py data=blobs model=mlp debug=fast
"""
KEYS = {
    "seed=1": "weights, order of the batches, augmentation, dropout",
    "trainer.max_epochs=20": "any argument of Lightning's Trainer",
    "resume=latest": "resume the newest run, or the run in a directory; other keys change it",
    "resume=auto": "resume the run in hydra.run.dir=DIR, or start it there",
    "sweep.resume=latest": "resume the newest sweep, or the sweep in a directory",
}
FLAGS = {
    "-m, --multirun": "a sweep: KEY=A,B and GROUP=A,B are trained in every combination",
    "--cfg job": "print the config that the command would train with, and stop; with --resolve, without interpolations",
    "--config-dir DIR": "find more choices in a folder that is laid out like configs/",
    "--info defaults": "print which file brings which choice",
    "--hydra-help": "print Hydra's own flags",
}
BUILT_IN = {"hydra/launcher": "basic"}  # Hydra's own choice, the default


def answer_help(arguments: Sequence[str]) -> None:
    """Prints the help and ends the process, if the arguments contain --help."""
    if {"-h", "--help"} & {*arguments}:
        try:
            print(printable(help_text(shutil.get_terminal_size().columns, _config_dir(arguments))), flush=True)
        except OSError as error:  # of a full disk
            sys.exit(f"error: {machine_failure(error) or error}")
        sys.exit()


def help_text(width: int = 80, config_dir: Path | None = None) -> str:
    """Returns the help, wrapped to `width` columns; does not break commands.

    Args:
        width: of the terminal.
        config_dir: folder with more choices beside those of `configs/`.
    """
    chosen = dict(_default_choices())
    groups = {
        group: ", ".join(f"{name} (default)" if name == chosen.get(group) else name for name in sorted(names))
        for group, names in _choices([CONFIGS, *([config_dir] if config_dir else [])], chosen).items()
        if names != {chosen.get(group)}  # a group with its default alone is left out
    }
    of_sweeps = {group: names for group, names in groups.items() if group.startswith("hydra/")}
    pages = {f"docs/{path.name}": _first_line(path).lstrip("# ") for path in sorted(ROOT.glob("docs/*.md"))}
    tables = {
        "Choices, one of each group: model=cnn": {g: names for g, names in groups.items() if g not in of_sweeps},
        "Choices of a sweep: hydra/sweeper=optuna": of_sweeps,
        "Keys: optimizer.lr=1e-3; --cfg job prints them all": KEYS,
        "Flags": FLAGS,
        "Scripts: each has a --help of its own": _scripts(),
        "Documentation": {"README.md": "a tour, and how to add a model or a dataset"} | pages,
    }
    return "\n".join([USAGE, EXAMPLES, *(_table(title, rows, width) for title, rows in tables.items())])


def usage(script: str) -> str:
    """Returns the docstring of a script, from its file: `python -OO` leaves it out of the module."""
    return ast.get_docstring(ast.parse(Path(script).read_text(encoding="utf-8"))) or ""


def _choices(folders: Sequence[Path], chosen: Mapping[str, str | None]) -> dict[str, set[str]]:
    """Returns the choices of each group; first the groups that have a default, in the order of train.yaml."""
    names: dict[str, set[str]] = {group: set() for group in chosen}
    for folder in folders:
        for path in sorted(folder.glob("*/**/*.yaml")):
            names.setdefault(path.parent.relative_to(folder).as_posix(), set()).add(path.stem)
    for group, name in BUILT_IN.items():
        names[group].add(name)
    return names


def _default_choices() -> Iterator[tuple[str, str | None]]:
    """Yields each group with its default, from the defaults lists of train.yaml and of Hydra's own groups."""
    for path in (CONFIGS / "train.yaml", *sorted(CONFIGS.glob("hydra/**/*.yaml"))):
        parent = path.parent.relative_to(CONFIGS)
        for entry in read_yaml(path).get("defaults", []):
            for key, choice in entry.items() if isinstance(entry, dict) else []:  # else _self_, or a file's name
                group = key.removeprefix("override ").partition("@")[0]
                yield group.removeprefix("/") if group.startswith("/") else (parent / group).as_posix(), choice
    yield from BUILT_IN.items()


def _scripts() -> dict[str, str]:
    """Returns the first line of each script's docstring, without the command in it."""
    return {
        f"scripts/{path.name}": _first_line(path).strip('"').partition(": python")[0].rstrip(":")
        for path in sorted(ROOT.glob("scripts/*.py"))
        if "__main__" in path.read_text(encoding="utf-8")
    }


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().strip()


def _table(title: str, rows: Mapping[str, str], width: int) -> str:
    """Returns a section: a title, and rows whose second column is wrapped."""
    column = 4 + max(map(len, rows))
    layout = TextWrapper(width, subsequent_indent=" " * column, break_long_words=False, break_on_hyphens=False)
    return "\n".join([title, *(layout.fill(f"  {name}".ljust(column) + text) for name, text in rows.items()), ""])


def _config_dir(arguments: Sequence[str]) -> Path | None:
    """Returns the folder that `--config-dir` names."""
    for argument, following in pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            return Path(value if equals else following)
    return None
