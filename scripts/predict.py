"""Predicts with a run's model: python scripts/predict.py run=latest [checkpoint=last] in=… [out=FILE]

in=test, val or train      a part of the run's data (test, where nothing is given), with [data=NAME] [data.KEY=VALUE …]
in=FILE.png                an image, a folder or a 'pattern*' of PNG and JPEG files
in=FILE.csv                a table with the columns of the training file, in any order
prompt="…"                 a text for a language model; num_tokens= temperature= top_k= top_p= seed=
num_samples=N              images of a VAE or GAN, as a grid in a PNG file; seed=

out= is a file: .csv, .jsonl or .txt (the answers alone), or .png for samples; without it the terminal
shows the first rows.
"""

import math
import sys
from typing import Any

from lab.engine.cli.errors import script
from lab.engine.inference.output import show_columns, write_columns
from lab.engine.inference.request import Request, read_request
from lab.engine.inference.reuse import datamodule, image_shape, with_data
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import atomic_write


def main(words: list[str]) -> None:
    asked = read_request(words)
    config, told = asked.run.config, dict[str, Any]()
    if asked.kind == "split":
        config, _, told = with_data(asked.run, asked.overrides)

    import torch  # seconds: once the arguments are known to be right

    from lab.engine.utils.console import quiet

    quiet()
    data = datamodule(asked.run, config, asked.checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = asked.run.model(asked.checkpoint, **told).to(device).eval()
    if asked.kind == "prompt":
        write_text(asked, model, data)
    elif asked.kind == "samples":
        write_samples(asked, model)
    else:
        write_rows(asked, model, data, config)


def write_rows(asked: Request, model: Any, data: Any, config: Any) -> None:
    from lab.engine.inference.predict import answer_columns, image_samples, predict, split_samples, table_samples

    assert asked.input is not None
    files = asked.input.files
    if asked.kind == "images":
        shape = image_shape(config)
        assert shape is not None
        samples, total = image_samples(data, files, shape)
        ids: tuple[str, Any] = ("file", map(str, files))
    elif asked.kind == "table":
        samples, total, number = table_samples(data, files[0])
        ids = ("row", range(1, number + 1))
    else:
        data.prepare_data()
        data.setup("test")
        samples, total, number = split_samples(data, asked.input.given)
        ids = ("index", range(number))
    columns = predict(model, samples, ids, total, getattr(data, "classes", None))
    if asked.out is None:
        show_columns(columns, f"{asked.run.dir.name}, {asked.checkpoint}.ckpt, on {asked.input.given}")
    else:
        write_columns(asked.out, columns, answer_columns(model, columns))
        print(f"{len(columns[ids[0]]):,} rows written to {asked.out}")


def write_text(asked: Request, model: Any, data: Any) -> None:
    import torch

    from lab.engine.inference.predict import continue_text
    from lab.engine.inference.progress import Bar

    options = dict(asked.options)
    if hasattr(data, "encode"):
        prompt, decode = data.encode(asked.prompt), data.decode
        if new := sorted({letter for letter in asked.prompt if not {*letter.encode()} <= {*data.vocabulary}}):
            print(f"note: the run's text holds no {' '.join(map(repr, new))}", file=sys.stderr)
    else:
        prompt, decode = (
            torch.tensor(numbers(asked.prompt, model.vocab_size)),
            lambda text: " ".join(map(str, text.tolist())),
        )
    num_tokens = options.pop("num_tokens", max(1, model.context - len(prompt)))
    if num_tokens < 1:
        raise UserError(f"num_tokens={num_tokens}: give a number from 1")
    with Bar("writing", math.ceil(num_tokens / model.context)) as bar:
        text = decode(continue_text(model, prompt.to(model.device), num_tokens, bar.advance, **options).cpu())
    if asked.out is None or asked.out.suffix == ".txt":
        if asked.out is None:
            print(text)
        else:
            with atomic_write(asked.out) as partial:
                partial.write_text(text, encoding="utf-8")
    else:
        write_columns(asked.out, {"prompt": [asked.prompt], "text": [text]}, ["text"])
    if asked.out is not None:
        print(f"written to {asked.out}")


def numbers(prompt: str, vocab_size: int) -> list[int]:
    """The tokens of a prompt where they are no text."""
    tokens = [int(word) if word.isdecimal() else -1 for word in prompt.split()]
    if not tokens or not all(0 <= token < vocab_size for token in tokens):
        raise UserError(
            f'prompt={prompt}: the run\'s data is no text: give its tokens, prompt="0 1 2", below {vocab_size}'
        )
    return tokens


def write_samples(asked: Request, model: Any) -> None:
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    from lab.data.tensors import generator

    number = asked.options["num_samples"]
    images = model.sample(number, generator(asked.options.get("seed", 0))).cpu()  # (N, C, H, W)
    grid = make_grid((images * model.std + model.mean).clamp(0, 1), nrow=math.ceil(math.sqrt(number)))
    out = asked.out or asked.run.dir / "samples.png"
    with atomic_write(out) as partial:
        to_pil_image(grid).save(partial, format="PNG")
    print(f"{number} samples written to {out}")


if __name__ == "__main__":
    script(main, __doc__)
