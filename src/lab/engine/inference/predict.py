"""What a model says of samples: a row for each.

Legend: B samples in a batch, K classes or targets.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.data.pictures import read_image
from lab.data.tensors import IGNORED, generator
from lab.engine.inference.output import Columns
from lab.engine.inference.progress import track
from lab.engine.utils.errors import UserError
from lab.models.tasks.classification import Classifier
from lab.models.tasks.language_modeling import LanguageModel
from lab.models.tasks.regression import Regressor
from lab.models.vae import VAE, binarise

CHUNK = 256  # images or rows of a table read and predicted at a time

Targets = Tensor | Sequence[Any] | None
Samples = Iterator[tuple[tuple[Tensor, ...], Targets]]  # inputs of the model, and what is known of their targets


@singledispatch
def answer(model: Any, inputs: tuple[Tensor, ...], targets: Targets, classes: Sequence[str] | None) -> Columns:
    """What `model` says of a batch, by columns.

    Args:
        model: in evaluation mode.
        inputs: (B, ...), one or more.
        targets: a tensor (B, ...), what a file says, or None.
        classes: names of the classes where there are any.
    """
    raise UserError(f"{type(model).__name__} is of no task that predictions are made for")


@answer.register
def _(model: Classifier, inputs: tuple[Tensor, ...], targets: Targets, classes: Sequence[str] | None) -> Columns:
    shares = model(*inputs).float().softmax(1)  # (B, ...) -> (B, K)
    best, labels = shares.max(1)  # (B), (B)
    names: Sequence[Any] = classes or range(shares.shape[1])
    known = [names[label] for label in targets.tolist()] if isinstance(targets, Tensor) else targets
    return {
        "label": [names[label] for label in labels.tolist()],
        "probability": plain(best),
        **({} if known is None else {"target": list(known)}),
        **{f"p_{name}": plain(share) for name, share in zip(names, shares.T, strict=True)},
    }


@answer.register
def _(model: Regressor, inputs: tuple[Tensor, ...], targets: Targets, classes: Sequence[str] | None) -> Columns:
    columns = _numbered("prediction", model.predict(*inputs))
    if isinstance(targets, Tensor):
        return columns | _numbered("target", targets)
    return columns if targets is None else columns | {"target": [_number(word) for word in targets]}


@answer.register
def _(model: LanguageModel, inputs: tuple[Tensor, ...], targets: Targets, classes: Sequence[str] | None) -> Columns:
    assert isinstance(targets, Tensor)  # (B, T)
    logits = model(*inputs)  # (B, T) -> (B, T, V)
    losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")  # (B, T)
    counted = targets != IGNORED
    hits = (logits.argmax(-1) == targets) & counted
    number = counted.sum(1).clamp(min=1)
    return {"loss": plain(losses.sum(1) / number), "acc": plain(hits.sum(1) / number)}


@answer.register
def _(model: VAE, inputs: tuple[Tensor, ...], targets: Targets, classes: Sequence[str] | None) -> Columns:
    draws = generator(0)
    found = model.bounds(binarise(model.intensities(inputs[0]), draws), 1, draws)  # nats, each (B)
    return {name: plain(found[name]) for name in ("elbo", "reconstruction", "kl")}


ANSWERS = {Classifier: "label", Regressor: "prediction", LanguageModel: "loss", VAE: "elbo"}


def answer_columns(model: Any, columns: Columns) -> list[str]:
    """The columns that are the answer itself: what a text file is given."""
    name = next(name for task, name in ANSWERS.items() if isinstance(model, task))
    return [column for column in columns if column.startswith(name)]


def predict(
    model: Any, samples: Samples, ids: tuple[str, Sequence[Any]], total: int, classes: Sequence[str] | None = None
) -> Columns:
    """Runs `model` over all `samples`, in evaluation, on its device.

    Args:
        model: of any task that `answer` knows.
        samples: batches of inputs and targets.
        ids: name of the first column, and its values.
        total: number of batches.
        classes: see `answer`.

    Returns:
        Columns, each with a value for each sample.
    """
    model.eval()
    columns: Columns = {}
    with torch.inference_mode():
        for inputs, targets in track(samples, "predicting", total):
            here = targets.to(model.device) if isinstance(targets, Tensor) else targets
            for name, values in answer(model, tuple(x.to(model.device) for x in inputs), here, classes).items():
                columns.setdefault(name, []).extend(values)
    return {ids[0]: list(ids[1])} | columns


def split_samples(data: Any, split: str) -> tuple[Samples, int, int]:
    """The batches of `train`, `val` or `test`, in the order of the split and as in evaluation, and how many batches
    and samples there are; after `setup`.
    """
    batches = data._batches(split, data.eval_batch_size, transform=data.eval_transform)
    return ((tuple(inputs), target) for *inputs, target in batches), len(batches), batches.size


def image_samples(data: Any, files: Sequence[Path], shape: Sequence[int]) -> tuple[Samples, int]:
    """Batches of image files, normalised as `data` normalises its own in evaluation, and how many there are."""

    def batches() -> Samples:
        for start in range(0, len(files), CHUNK):
            images = torch.stack([read_image(path, shape) for path in files[start : start + CHUNK]])  # (B, C, H, W)
            yield data.eval_transform((images, torch.zeros(len(images))), (0,))[:1], None

    return batches(), -(-len(files) // CHUNK)


def table_samples(data: Any, path: Path) -> tuple[Samples, int, int]:
    """Batches of a CSV file, prepared as the training rows of `data` were, how many there are, and how many rows."""
    features, known = data.read(str(path), "in")

    def batches() -> Samples:
        for start in range(0, len(features), CHUNK):
            rows = slice(start, start + CHUNK)
            yield (features[rows].float(),), None if known is None else known[rows]

    return batches(), -(-len(features) // CHUNK), len(features)


def plain(values: Tensor) -> list[float]:
    """Numbers (B) as Python's, with as many digits as their own precision has."""
    if values.dtype == torch.float64:
        return values.tolist()
    return [float(str(value)) for value in values.float().cpu().numpy()]


def _numbered(name: str, values: Tensor) -> Columns:
    """The columns of values (B, K), counted from 1 where there are several."""
    if values.shape[1] == 1:
        return {name: plain(values[:, 0])}
    return {f"{name}_{i + 1}": plain(column) for i, column in enumerate(values.T)}


def _number(word: str | None) -> float | str | None:
    try:
        return None if word is None else float(word)
    except ValueError:
        return word


def continue_text(
    model: LanguageModel, prompt: Tensor, num_tokens: int, progress: Callable[[], None] = lambda: None, **options: Any
) -> Tensor:
    """Adds `num_tokens` to a prompt (P,), also beyond the model's context, of which then the later half is kept.

    Args:
        model: in evaluation mode.
        prompt: at least one token.
        num_tokens: how many to add.
        progress: called after each piece.
        **options: see `LanguageModel.generate`; the n-th piece beyond the context has the seed plus n.
    """
    text, seed, context = prompt, options.pop("seed", 0), model.context
    left = num_tokens
    while left:
        seen = text[-max(1, context // 2) :] if len(text) >= context else text
        new = min(left, context - len(seen))
        if not new:
            raise UserError(f"the run's model reads one token at a time (context={context}): it continues nothing")
        added = model.generate(seen.unsqueeze(0), new, seed=seed, **options)[0, len(seen) :]
        text, left, seed = torch.cat([text, added]), left - new, seed + 1
        progress()
    return text
