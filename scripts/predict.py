"""Predicts with a run's model: python scripts/predict.py run=latest [checkpoint=last] in=… [out=FILE]

in=test, val, train        a part of the run's data (test, where nothing is given), with [data=NAME] [data.KEY=VALUE …];
                           in=predict where it has a predict_dataloader
in=FILE                    what the run's data reads: images (.png, .jpg: one, a folder or a 'pattern*'), or a table
                           (.csv) with the columns of the training file, in any order
prompt="…"                 a text for a language model; num_tokens= temperature= top_k= top_p= seed=
num_samples=N              images of a VAE or GAN, as a grid in a PNG file; seed=

out= is a file: .csv, .jsonl or .txt (its main column) for rows and texts, .png for samples, which also says what is
made where nothing else does; without it the terminal shows the first rows.
"""

from lab.engine.cli.start import start

if __name__ == "__main__":
    start()

import math
from typing import Any

from lab.engine.cli.errors import script
from lab.engine.inference.output import show_table, write_table
from lab.engine.inference.request import Request, check_model, read_request, readable_files
from lab.engine.inference.reuse import with_data
from lab.engine.utils.escape import printable
from lab.engine.utils.files import atomic_write


def main(argv: list[str]) -> None:
    asked = read_request(argv)
    config, model_arguments = asked.run.config, dict[str, Any]()
    if asked.kind in ("in", "") and not asked.files:
        config, _, model_arguments = with_data(asked.run, asked.overrides)

    import pytorch_lightning  # noqa: F401  # seconds: once the arguments are known to be right
    import torch

    from lab.engine.utils.console import quiet

    quiet()  # after the import, which sets the level of Lightning's log
    model: Any = asked.run.model(asked.checkpoint, **model_arguments)
    kind = check_model(asked, model)
    data: Any = asked.run.datamodule(config, asked.checkpoint)
    if kind == "in":
        write_rows(asked, model, data)
        return
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "prompt":
        write_text(asked, model, data)
    else:
        write_samples(asked, model)


def write_rows(asked: Request, model: Any, data: Any) -> None:
    from lab.engine.inference.predict import predict

    table, main_columns = predict(model, data, asked.source, readable_files(asked, data))
    if asked.out is None:
        show_table(table, f"{asked.run.dir.name}, {asked.checkpoint}.ckpt, on {asked.source}", main_columns)
    else:
        write_table(asked.out, table, main_columns)
        print(f"{len(table):,} rows written to {asked.out}")


def write_text(asked: Request, model: Any, data: Any) -> None:
    import polars
    from rich.console import Console

    with Console(stderr=True).status("writing"):
        text = model.complete(asked.prompt, data, **asked.options)
    if asked.out is None:
        print(printable(text))
        return
    write_table(asked.out, polars.DataFrame({"prompt": asked.prompt, "text": text}), ["text"])
    print(f"written to {asked.out}")


def write_samples(asked: Request, model: Any) -> None:
    from torchvision.utils import save_image

    number = asked.options.get("num_samples", 64)
    images = model.sample_images(number, asked.options.get("seed", 0))  # (N, C, H, W), in [0, 1]
    out = asked.out or asked.run.dir / "samples.png"
    with atomic_write(out) as partial:
        save_image(images, partial, nrow=math.ceil(math.sqrt(number)), format="png")
    print(f"{number} samples written to {out}")


if __name__ == "__main__":
    script(main)
