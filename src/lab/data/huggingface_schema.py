"""Reads what the columns of a saved Hugging Face dataset hold, from its JSON files: works without torch and `datasets`.

Shapes: C channels, H rows and W columns of pixels, D numbers, T tokens.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest

Feature = dict[str, Any]  # of a column, as dataset_info.json describes it; empty where nobody says

LISTS = ("List", "LargeList", "Sequence")  # the last as datasets < 4 wrote it


def dims(data: Mapping[str, Any], features: Mapping[str, Feature] | None = None) -> dict[str, Any]:
    """Returns the `dims` of a dataset: of images, of tokens where `context_length` is given, or of numbers.

    Args:
        data: arguments of `lab.data.huggingface.HuggingFace`; what they leave out is read from a dataset on the disk.
        features: of the columns, where they are known; default: read from the disk.

    Raises:
        UserError: when there is no such column, it holds something else, or a size is known from neither.
    """
    path, target, image_shape = data["path"], data["target"], data["image_shape"]
    features = read_features(Path(path)) if features is None else features
    columns = names(data["input"])
    for key, column in [*(("input", column) for column in columns), *([("target", target)] if target else [])]:
        check_column(key, column, features, path)
    inputs = [features.get(column, {}) for column in columns]
    if data["context_length"] is not None:
        _check_kind("lists of tokens", LISTS, columns, inputs, "tokenise it, see docs/training.md")
        if target is not None:
            raise UserError(f"data.target={target}: tokens are followed by tokens; leave out it or data.context_length")
        return {"vocab": _given(data, "vocab_size"), "context_length": data["context_length"]}
    if target is None:
        raise UserError(
            "data.target has no value: name the column to predict; or give data.context_length, for tokens that the"
            " next one is to be predicted of"
        )
    outputs = _outputs(data, features.get(target, {}))
    if image_shape is not None:
        _check_kind("images", ("Image",), columns, inputs, "leave out data.image_shape")
        channels, height, width = image_shape
        return {
            "image_shape": list(image_shape), "pixel_mean_std": list(data["pixel_mean_std"]),
            "sequence": [height, channels * width], "features": math.prod(image_shape), **outputs,
        }  # fmt: skip
    if "Image" in [feature.get("_type") for feature in inputs]:
        raise UserError(f"data.input={data['input']} holds images: give their size, such as data.image_shape=[3,64,64]")
    widths = [_width(feature) for feature in inputs]
    return {"features": _given(data, "num_features") if None in widths else sum(filter(None, widths)), **outputs}


def names(columns: str | Sequence[str]) -> list[str]:
    """Returns the names of one column or several."""
    return [columns] if isinstance(columns, str) else [*columns]


def read_features(path: Path) -> dict[str, Feature]:
    """Reads what the columns of a dataset on disk hold; nothing of one that is not on the disk.

    Raises:
        UserError: when `path` is there and no dataset that `save_to_disk` wrote, or cannot be the name of one.
    """
    if not path.exists():
        if path.is_absolute() or len(path.parts) > 2 or str(path).startswith("."):
            beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"data.path={path}: no such folder{nearest(path.name, beside)}")
        return {}
    try:
        if (splits := path / "dataset_dict.json").is_file():
            path /= json.loads(splits.read_text())["splits"][0]
        return dict(json.loads((path / "dataset_info.json").read_text())["features"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"data.path={path} is no dataset that save_to_disk wrote: its dataset_info.json describes none ({error})"
        ) from error


def check_column(key: str, column: str, known: Collection[str], path: Any) -> None:
    """Refuses a column that is not among the known ones, where these are known."""
    if known and column not in known:
        raise UserError(
            f"data.{key}={column}: no such column in {path}{nearest(column, known)}\ncolumns: {', '.join(known)}"
        )


def _outputs(data: Mapping[str, Any], label: Feature) -> dict[str, int]:
    """Returns how many classes a target has, or that it is a value."""
    if label.get("_type") == "ClassLabel":
        return {"classes": len(label["names"])}
    if label.get("dtype") in ("string", "large_string"):
        raise UserError(
            f"data.target={data['target']} holds words: number them, dataset.class_encode_column({data['target']!r}),"
            " and save the dataset again"
        )
    return {"targets": 1} if label.get("dtype", "").startswith("float") else {"classes": _given(data, "num_classes")}


def _check_kind(
    what: str, kinds: Sequence[str], columns: Sequence[str], features: Sequence[Feature], remedy: str
) -> None:
    for column, feature in zip(columns, features, strict=True):
        if feature and feature["_type"] not in kinds:
            found = feature.get("dtype", feature["_type"])
            raise UserError(f"data.input={column} holds {found}, and no {what}: {remedy}")


def _given(data: Mapping[str, Any], size: str) -> int:
    if data[size] is None:
        raise UserError(f"data.{size} has no value: give one, since {data['path']} does not say it")
    return int(data[size])


def _width(feature: Feature) -> int | None:
    """Returns how many numbers a column holds in each row; None where nobody says."""
    kind = feature.get("_type", "")
    if kind.startswith("Array"):
        return math.prod(feature["shape"])
    if kind not in LISTS:
        return 1 if feature else None
    inner = _width(feature["feature"])
    return inner * feature["length"] if inner and feature.get("length", -1) > 0 else None
