"""What scripts/predict.py is asked for, checked before torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lab.engine.inference.inputs import Input, find_input
from lab.engine.inference.output import check_out
from lab.engine.inference.reuse import image_shape, parse, task
from lab.engine.runs.run import Run
from lab.engine.utils.errors import UserError

ARGUMENTS = {"run": "latest", "checkpoint": "best", "in": "", "out": "", "prompt": "", "num_samples": ""}
# What each option of a prompt or of samples is
OPTIONS: dict[str, dict[str, type]] = {
    "prompt": {"num_tokens": int, "temperature": float, "top_k": int, "top_p": float, "seed": int},
    "samples": {"seed": int},
}
# What a model of each task can be given; the first where nothing is asked for
TAKES = {
    "Classifier": ("split", "images", "table"),
    "Regressor": ("split", "images", "table"),
    "LanguageModel": ("split", "prompt"),
    "VAE": ("samples", "split", "images"),
    "GAN": ("samples",),
}
WORDS = {
    "split": "in=test, in=val or in=train",
    "images": "in=FILE.png, a folder or a pattern of images",
    "table": "in=FILE.csv",
    "prompt": 'prompt="…"',
    "samples": "num_samples=N",
}
SUFFIXES = {"samples": (".png",)}  # else rows


@dataclass(frozen=True)
class Request:
    """What to predict, by which run, to where.

    Args:
        run: the run.
        checkpoint: `best` or `last`.
        kind: `split`, `images`, `table`, `prompt` or `samples`.
        input: of the first three.
        out: a file; None for the terminal.
        prompt: a text.
        options: numbers, of a prompt and of samples.
        overrides: of the run's data, of a split.
    """

    run: Run
    checkpoint: str
    kind: str
    input: Input | None
    out: Path | None
    prompt: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()


def read_request(words: Sequence[str]) -> Request:
    """Makes a request of the command line.

    Raises:
        UserError: on the first thing that is wrong.
    """
    every = ARGUMENTS | {name: "" for options in OPTIONS.values() for name in options}
    own, overrides = parse(words, every)
    given = {word.partition("=")[0] for word in words}
    run = Run.open(own["run"])
    run.checkpoint(own["checkpoint"])
    target = str(run.config.model._target_)
    takes = TAKES.get(str(task(target)), ("split", "images", "table"))
    asked = [name for name in ("in", "prompt", "num_samples") if name in given]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(f'{name}=' for name in asked)} at once: give one of them")
    found = find_input(own["in"]) if "in" in given else None
    kind = found.kind if found else {"prompt": "prompt", "num_samples": "samples"}.get("".join(asked), takes[0])
    model = target.rpartition(".")[2]
    if kind not in takes:
        raise UserError(
            f"{WORDS[kind]} is nothing for the run's model {model}; it takes\n"
            + "\n".join(f"  {WORDS[other]}" for other in takes)
        )
    if kind == "split":
        found = found or find_input("test")
    options = _options(own, given, kind)
    if kind == "samples":
        options["num_samples"] = _number("num_samples", own["num_samples"] or "64", int)
        if options["num_samples"] < 1:
            raise UserError(f"num_samples={options['num_samples']}: give a number from 1")
    if kind == "prompt" and not own["prompt"]:
        raise UserError("prompt= is empty: give at least one character")
    if overrides and kind != "split":
        raise UserError(f"{overrides[0]} chooses other data for in=test, in=val or in=train, and this is {WORDS[kind]}")
    if kind in ("images", "table"):
        _check_kind_of_data(run, kind, own["in"])
    out = (
        check_out(own["out"], SUFFIXES.get(kind, (".csv", ".jsonl", ".txt")), _sources(run, found))
        if own["out"]
        else None
    )
    return Request(run, own["checkpoint"], kind, found, out, own["prompt"], options, tuple(overrides))


def _options(own: dict[str, str], given: set[str], kind: str) -> dict[str, Any]:
    """The numbers that go with `kind`; the others are refused."""
    takes = OPTIONS.get(kind, {})
    for name in sorted({name for options in OPTIONS.values() for name in options} & given):
        if name not in takes:
            kinds = " or ".join(WORDS[kind] for kind, options in OPTIONS.items() if name in options)
            raise UserError(f"{name}={own[name]} goes with {kinds}")
    return {name: _number(name, own[name], number) for name, number in takes.items() if name in given}


def _number(name: str, text: str, number: type) -> Any:
    try:
        return number(text)
    except ValueError:
        what = "a whole number" if number is int else "a number"
        raise UserError(f"{name}={text}: expected {what}") from None


def _check_kind_of_data(run: Run, kind: str, given: str) -> None:
    config = run.config
    data = str(config.data._target_)
    name = data.rpartition(".")[2]
    if kind == "images":
        shape = image_shape(config)
        if shape is None or shape[0] not in (1, 3):
            raise UserError(f"in={given}: the run's data ({name}) holds no images: it cannot say how to read one")
    elif data.startswith("lab.data.") and data != "lab.data.csv.CSV":
        raise UserError(f"in={given}: the run's data ({name}) is no CSV file: it has no columns to read by name")


def _sources(run: Run, found: Input | None) -> list[Path]:
    """Files that are never written over: what is read, and the training file."""
    path = OmegaConf.select(run.config, "data.path")
    return [*(found.files if found else ()), *([Path(path)] if path else [])]
