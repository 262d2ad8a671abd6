"""Parses the command line of scripts/predict.py, before torch is imported.

What depends on the model's or the data's class is checked once they are loaded.
"""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lab.engine.inference.output import check_out
from lab.engine.inference.reuse import parse
from lab.engine.runs.run import Run
from lab.engine.utils.arguments import check_utf8
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

SPLITS = ("train", "val", "test", "predict")
# For each kind of prediction, by its argument: its options, its file suffixes, its usage, and the model's method
NUMBERS: dict[str, dict[str, type]] = {
    "in": {},
    "prompt": {"num_tokens": int, "temperature": float, "top_k": int, "top_p": float, "seed": int},
    "num_samples": {"num_samples": int, "seed": int},
}
TABLE, IMAGE = (".csv", ".jsonl", ".txt"), (".png",)
SUFFIXES = {"in": TABLE, "prompt": TABLE, "num_samples": IMAGE, "": TABLE + IMAGE}
USAGE = {"in": "in=test, val, train or FILE", "prompt": 'prompt="…"', "num_samples": "num_samples=N"}
METHODS = {"prompt": "complete", "num_samples": "sample_images"}


@dataclass(frozen=True)
class Request:
    """Says what to predict, with which run, and where to write it.

    Args:
        run: the run.
        checkpoint: `best` or `last`.
        kind: `in`, `prompt` or `num_samples`; empty where the model is to say.
        source: what `in` gives: a split, or what names `files`.
        files: none for a split.
        out: a file; None for the terminal.
        prompt: a text.
        options: numbers, of a prompt and of samples.
        overrides: of the run's data, for a split.
    """

    run: Run
    checkpoint: str
    kind: str
    source: str
    files: Sequence[Path]
    out: Path | None
    prompt: str
    options: dict[str, Any]
    overrides: Sequence[str]


def read_request(argv: Sequence[str]) -> Request:
    """Parses a command line into a request.

    Raises:
        UserError: on the first thing that is wrong.
    """
    numbers = {name: number for kind in NUMBERS.values() for name, number in kind.items()}
    defaults = {"run": "latest", "checkpoint": "best", "in": "test", **dict.fromkeys(("out", "prompt", *numbers), "")}
    own, overrides = parse(argv, defaults)
    given = {word.partition("=")[0] for word in argv}
    run = Run.open(own["run"], own["paths.log_dir"])
    run.checkpoint(own["checkpoint"])
    asked = [name for name in USAGE if name in given]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(f'{name}=' for name in asked)} at once: give one of them")
    suffix = Path(own["out"]).suffix
    if not asked and (overrides or suffix in TABLE):
        asked = ["in"]
    elif not asked and ("seed" in given or suffix in IMAGE):
        asked = ["num_samples"]
    kind = asked[0] if asked else ""
    files = [] if own["in"] in SPLITS else find_files(own["in"])
    for name in sorted({*numbers} & given - {*NUMBERS.get(kind, {})}):
        fitting = [USAGE[other] for other, takes in NUMBERS.items() if name in takes]
        raise UserError(f"{name}={own[name]} goes with {' or '.join(fitting)}")
    options = {name: _number(name, own[name], number) for name, number in numbers.items() if name in given}
    if options.get("num_samples", 1) < 1:
        raise UserError(f"num_samples={own['num_samples']}: give a number from 1")
    check_utf8([f"prompt={own['prompt']}"])
    if kind == "prompt" and not own["prompt"]:
        raise UserError("prompt= is empty: give at least one character")
    if overrides and (files or kind != "in"):
        what = f"in={own['in']}" if files else USAGE[kind]
        raise UserError(f"{overrides[0]} chooses other data for in=test, in=val or in=train, and this is {what}")
    trained_on = OmegaConf.select(run.config, "data.path")
    kept = [*files, *([Path(trained_on)] if isinstance(trained_on, str) else [])]  # never written over
    out = check_out(own["out"], SUFFIXES[kind], kept) if own["out"] else None
    return Request(run, own["checkpoint"], kind, own["in"], files, out, own["prompt"], options, overrides)


def find_files(given: str) -> list[Path]:
    """Returns the files that `in=` names: one, those of a folder, or those that match a pattern.

    Raises:
        UserError: when nothing is there.
    """
    path = Path(given)
    if path.is_file():
        return [path]
    if path.is_dir() or glob.has_magic(given):
        found = path.iterdir() if path.is_dir() else map(Path, glob.glob(given, recursive=True))
        if files := sorted(file for file in found if file.is_file() and not file.name.startswith(".")):
            return files
        raise UserError(f"in={given}: this {'folder' if path.is_dir() else 'pattern'} holds no file")
    beside = path.parent.iterdir() if path.parent.is_dir() else []
    near = nearest(given, SPLITS) or nearest(path.name, [p.name for p in beside])
    raise UserError(
        f"in={given}: no such file{near}\nin= takes a part of the run's data ({', '.join(SPLITS)}), or what its data"
        " reads: a file, a folder or a pattern of files"
    )


def check_model(asked: Request, model: Any) -> str:
    """Returns the kind of prediction: the one asked for, or else samples if the model draws them.

    Raises:
        UserError: when it cannot.
    """
    takes = ["in", *(kind for kind, method in METHODS.items() if hasattr(model, method))]
    kind = asked.kind or ("num_samples" if "num_samples" in takes else "in")
    if kind not in takes:
        raise UserError(
            f"{USAGE[kind]} is nothing for the run's model {type(model).__name__}; it takes\n"
            + "\n".join(f"  {USAGE[other]}" for other in takes)
        )
    return kind


def readable_files(asked: Request, data: Any) -> list[Path]:
    """Returns those files whose suffix is among the `predict_suffixes` of the run's data.

    Raises:
        UserError: when the data has no `predict_inputs`, or reads none of the files.
    """
    suffixes = getattr(data, "predict_suffixes", None)
    name = "the model, which has its own loaders," if data is None else f"the run's data ({type(data).__name__})"
    if asked.files and not hasattr(data, "predict_inputs"):
        raise UserError(
            f"in={asked.source}: {name} has no predict_inputs: it reads no files to predict\n"
            f"in= takes its parts: {', '.join(SPLITS)}"
        )
    files = [path for path in asked.files if suffixes is None or path.suffix.lower() in suffixes]
    if asked.files and not files:
        raise UserError(f"in={asked.source}: {name} reads {', '.join(suffixes or ())}, and finds none there")
    return files


def _number(name: str, text: str, number: type) -> Any:
    try:
        return number(text)
    except ValueError:
        raise UserError(f"{name}={text}: expected {'a whole number' if number is int else 'a number'}") from None
