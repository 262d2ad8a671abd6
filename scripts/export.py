"""Writes a run's model for use elsewhere: python scripts/export.py run=latest [checkpoint=last] to=onnx [out=FILE]

to=onnx           a graph for ONNX Runtime and its like (.onnx)
to=torch_export   a program for torch.export.load (.pt2)
to=safetensors    the weights alone, with class and hyperparameters as JSON (.safetensors)

Batches may have any size, and sequences any length. The file is checked against the model before it gets its name; it
lies in the run directory, under export/, where out= names no other.
"""

from lab.engine.cli.start import start

if __name__ == "__main__":
    start()

import importlib.util
import sys
from pathlib import Path
from typing import Any

from lab.engine.cli.errors import script
from lab.engine.inference.output import check_out
from lab.engine.inference.reuse import data_dims, parse
from lab.engine.runs.run import Run
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
PACKAGES = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "torch_export": (), "safetensors": ()}


def main(argv: list[str]) -> None:
    own, overrides = parse(argv, {"run": "latest", "checkpoint": "best", "to": "", "out": ""})
    if overrides:
        raise UserError(f"{overrides[0]}: a model is exported as it is, and takes no overrides")
    run = Run.open(own["run"], own["paths.log_dir"])
    checkpoint = run.checkpoint(own["checkpoint"])
    to, out = target(run, own["to"], own["out"])

    from rich.console import Console

    from lab.engine.inference.export import describe, export  # torch: once the arguments are known to be right
    from lab.engine.inference.predict import first_batch
    from lab.engine.utils.console import quiet

    quiet()
    model: Any = run.model(own["checkpoint"])

    def example() -> Any:
        return first_batch(run.datamodule(which=own["checkpoint"]) or model)

    part = describe(model, data_dims(run.config), example) if to != "safetensors" else None  # weights need no example
    metadata = {
        "class": str(run.config.model._target_),
        "hyperparameters": dict(model.hparams),
        "exports": part.description if part else "weights",
        **({"inputs": part.inputs, "outputs": part.outputs} if part else {}),
        "data": run.choices.get("data"),
        "preparation": run.preparation(own["checkpoint"]),
        "run": run.dir.name,
        "checkpoint": checkpoint.name,
    }
    out.parent.mkdir(exist_ok=True)
    with Console(file=sys.stderr).status("exporting"):
        differences = export(part, model, to, out, metadata)
    print(f"{metadata['exports']}: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    if to == "safetensors":
        print("checked: read again, every weight is the same")
    else:
        checked = ", ".join(f"{value:.2g} at batch size {batch}" for batch, value in differences.items())
        print(f"largest difference from the model: {checked}")


def target(run: Run, to: str, out: str) -> tuple[str, Path]:
    """Returns the format and the path to write; either may be left out, and follows from the other."""
    to = to or next((name for name, suffix in SUFFIXES.items() if out.endswith(suffix)), "")
    if to not in SUFFIXES:
        given = f"to={to}: no such choice{nearest(to, SUFFIXES)}" if to else "to= has no value"
        raise UserError(f"{given}\nchoices: {', '.join(SUFFIXES)}")
    lacking = [name for name in PACKAGES[to] if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(f"to={to} needs {', '.join(lacking)}: pip install 'lightning-lab[export]', or '.[export]' here")
    if out:
        return to, check_out(out, [SUFFIXES[to]])
    return to, run.dir / "export" / f"model{SUFFIXES[to]}"


if __name__ == "__main__":
    script(main)
