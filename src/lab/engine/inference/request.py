"""Reads what scripts/predict.py is asked for, before torch is imported.

What depends on the model's or the data's class is answered once they are loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lab.engine.inference.inputs import Input, find_input
from lab.engine.inference.output import check_out
from lab.engine.inference.reuse import parse
from lab.engine.runs.run import Run
from lab.engine.utils.errors import UserError

ARGUMENTS = {"run": "latest", "checkpoint": "best", "in": "", "out": "", "prompt": "", "num_samples": ""}
# What each option of a prompt or of samples is
OPTIONS: dict[str, dict[str, type]] = {
    "prompt": {"num_tokens": int, "temperature": float, "top_k": int, "top_p": float, "seed": int},
    "samples": {"seed": int},
}
WORDS = {"rows": "in=test, val, train or FILE", "prompt": 'prompt="…"', "samples": "num_samples=N"}
ROWS, IMAGE = (".csv", ".jsonl", ".txt"), (".png",)  # what out= may be
SUFFIXES = {"rows": ROWS, "prompt": ROWS, "samples": IMAGE, "default": ROWS + IMAGE}


@dataclass(frozen=True)
class Request:
    """What to predict, by which run, to where.

    Args:
        run: the run.
        checkpoint: `best` or `last`.
        kind: `rows`, `prompt`, `samples`, or `default`: samples of a model that draws them, else rows of in=test.
        input: of rows.
        out: a file; None for the terminal.
        prompt: a text.
        options: numbers, of a prompt and of samples.
        overrides: of the run's data, for a split.
    """

    run: Run
    checkpoint: str
    kind: str
    input: Input
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
    asked = [name for name in ("in", "prompt", "num_samples") if name in given]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(f'{name}=' for name in asked)} at once: give one of them")
    found = find_input(own["in"] if "in" in given else "test")
    kind = {"in": "rows", "prompt": "prompt", "num_samples": "samples"}.get("".join(asked), "default")
    if kind == "default" and overrides:
        kind = "rows"
    options = _options(own, given, kind)
    if kind in ("samples", "default"):
        options["num_samples"] = _number("num_samples", own["num_samples"] or "64", int)
        if options["num_samples"] < 1:
            raise UserError(f"num_samples={options['num_samples']}: give a number from 1")
    if kind == "prompt" and not own["prompt"]:
        raise UserError("prompt= is empty: give at least one character")
    if overrides and not (kind == "rows" and found.is_split):
        what = f"in={own['in']}" if kind == "rows" else WORDS[kind]
        raise UserError(f"{overrides[0]} chooses other data for in=test, in=val or in=train, and this is {what}")
    out = check_out(own["out"], SUFFIXES[kind], _sources(run, found)) if own["out"] else None
    return Request(run, own["checkpoint"], kind, found, out, own["prompt"], options, tuple(overrides))


def check_model(asked: Request, model: Any) -> str:
    """Returns what the model is to make, `rows`, `prompt` or `samples`.

    Raises:
        UserError: when it cannot.
    """
    methods = {"samples": "sample_images", "prompt": "complete"}
    takes = ["rows", *(kind for kind, method in methods.items() if hasattr(model, method))]
    kind = asked.kind
    if kind == "default":
        kind = "samples" if "samples" in takes else "rows"
        if asked.out is not None:
            check_out(str(asked.out), SUFFIXES[kind], [])
        if "seed" in asked.options and kind == "rows":
            raise UserError(_goes_with("seed", asked.options["seed"]))
    if kind not in takes:
        raise UserError(
            f"{WORDS[kind]} is nothing for the run's model {type(model).__name__}; it takes\n"
            + "\n".join(f"  {WORDS[other]}" for other in takes)
        )
    return kind


def _options(own: dict[str, str], given: set[str], kind: str) -> dict[str, Any]:
    """The numbers that go with `kind`; the others are refused."""
    takes = OPTIONS.get("samples" if kind == "default" else kind, {})
    for name in sorted({name for options in OPTIONS.values() for name in options} & given):
        if name not in takes:
            raise UserError(_goes_with(name, own[name]))
    return {name: _number(name, own[name], number) for name, number in takes.items() if name in given}


def _goes_with(name: str, value: Any) -> str:
    return f"{name}={value} goes with " + " or ".join(
        WORDS[kind] for kind, options in OPTIONS.items() if name in options
    )


def _number(name: str, text: str, number: type) -> Any:
    try:
        return number(text)
    except ValueError:
        what = "a whole number" if number is int else "a number"
        raise UserError(f"{name}={text}: expected {what}") from None


def _sources(run: Run, found: Input) -> list[Path]:
    """Files that are never written over: what is read, and the training file."""
    path = OmegaConf.select(run.config, "data.path")
    return [*found.files, *([Path(path)] if isinstance(path, str) else [])]
