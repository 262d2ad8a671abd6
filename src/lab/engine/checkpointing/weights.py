"""Loads the weights of another model into a new one: a run's, a checkpoint of anybody's, or a safetensors file."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from lab.engine.checkpointing.files import read_data
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import checksum
from lab.engine.utils.names import nearest

log = logging.getLogger(__name__)

SHOWN = 5  # entries of each kind that a message names
REMEDY = (
    "weights.strict=false takes what fits, and lets the rest of the model begin afresh;"
    " weights.map={PREFIX:PREFIX} renames the file's entries"
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads the weights in a file by their names, onto the CPU; runs no code of it.

    Args:
        path: of a `.safetensors` file, a checkpoint of Lightning's, or what `torch.save` made of a state dict.

    Raises:
        UserError: when it holds none, or more than data.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is no safetensors file: {error}") from error
    content = read_data(path)
    entries = content.get("state_dict", content) if isinstance(content, dict) else {}
    state = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    if not state:
        held = f"; it holds {', '.join(map(str, content))}" if isinstance(content, dict) else ""
        raise UserError(f"{path} holds no weights, neither by their names nor as its state_dict{held}")
    return state


def rename(state: Mapping[str, Tensor], prefixes: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    """Replaces prefixes of names, whole parts between dots; of several that fit, the longest.

    Args:
        state: tensors by their names.
        prefixes: the new one of each; `.` is none, so that `{".": "net"}` puts `net.` before each name.
        path: of the file, for errors.

    Raises:
        UserError: for a prefix that no name has.
    """
    known = {old.strip("."): new.strip(".") for old, new in prefixes.items()}
    used, renamed = set(), {}
    for name, value in state.items():
        fitting = [old for old in known if not old or f"{name}.".startswith(f"{old}.")]
        if fitting:
            old = max(fitting, key=len)
            used.add(old)
            name = ".".join(filter(None, [known[old], name[len(old) :].lstrip(".")]))
        renamed[name] = value
    for old in known.keys() - used:
        parts = {name.rpartition(".")[0] for name in state} | {name.partition(".")[0] for name in state}
        raise UserError(f"weights.map: no entry of {path} begins with {old}{nearest(old, parts)}")
    return renamed


def load_weights(model: pl.LightningModule, path: Path, prefixes: Mapping[str, str], strict: bool = True) -> None:
    """Copies those weights of a file into `model` that have the name and the shape of one of its own.

    Args:
        model: as it was built; layers that `configure_model` makes are made first, those of `setup` come too late.
        path: see `read_weights`.
        prefixes: see `rename`.
        strict: whether each entry of the one must be one of the other.

    Raises:
        UserError: for a file that does not fit, with the entries that differ, or where nothing fits.
    """
    if is_overridden("configure_model", model):
        model.configure_model()
    own, state = model.state_dict(), rename(read_weights(path), prefixes, path)
    shapes, theirs = ({name: _shape(value) for name, value in each.items()} for each in (own, state))
    fitting = [name for name in shapes if shapes[name] == theirs.get(name)]
    differing = {
        "of another shape": [
            f"{name}: {theirs[name]} in the file, {shapes[name]} in the model"
            for name in shapes
            if name in theirs and name not in fitting
        ],
        "missing in the file": [name for name in shapes if name not in theirs],
        "unknown to the model": [name for name in theirs if name not in shapes],
    }
    differing = {kind: names for kind, names in differing.items() if names}
    lines = [f"{path}: {len(fitting)} of the {len(own)} entries of {type(model).__name__} fit"]
    for kind, names in differing.items():
        lines.append(f"{len(names)} {kind}:")
        lines += [f"  {name}" for name in names[:SHOWN]] + [f"  and {len(names) - SHOWN} more"] * (len(names) > SHOWN)
    if not fitting or (strict and differing):
        raise UserError("\n".join(["weights.path=" + lines[0], *lines[1:], REMEDY]))
    model.load_state_dict({name: state[name] for name in fitting}, strict=False)
    rank_zero_only(log.info)("%s", "\n".join(lines))


def origin(path: Path) -> dict[str, Any]:
    """Returns where weights come from, for run.json: the file, its SHA-256, and the run whose checkpoint it is."""
    run = path.resolve().parent.parent
    name = run.name if (run / "run.json").is_file() else None
    return {"file": str(path.resolve()), "run": name, "checksum": checksum(path)}


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
