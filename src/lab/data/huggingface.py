"""Serves a Hugging Face dataset of images, tokens or numbers: data=huggingface data.path=DIR data.input=COLUMN"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lab.data.huggingface_schema import check_column, dims, names
from lab.data.image_index import SUFFIXES
from lab.data.images import normalise, read_image
from lab.data.loaders import LoaderDataModule, Splits, hold_out
from lab.data.tensors import IGNORED
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.machine import has_package
from lab.engine.utils.names import nearest
from lab.engine.utils.ranges import AtLeastTwo, ImageShape, InnerFraction, PixelMeanStd, PositiveInt, Seed

if TYPE_CHECKING:
    from datasets import Dataset as Table  # takes seconds: imported where it is needed

log = logging.getLogger(__name__)

Reader = Callable[[dict[str, Any], int], Any]

TABLES = (".arrow", ".parquet")


class HuggingFace(LoaderDataModule):
    """Serves the rows of a Hugging Face dataset, read from the disk as they are asked for.

    One of three kinds: images (B, C, H, W), where `image_shape` says so, tokens and those that follow, both (B, T),
    where `context_length` does, or else features (B, D). Images and features come with labels (B,) where the target is
    a class, else with values (B, 1). Of longer rows of tokens the first T + 1 are read; shorter ones are padded by 0,
    whose targets are -100; those of less than two tokens are left out.

    Args:
        path: of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote, or the name of a dataset on
            the Hub, which is downloaded once. No code of a dataset is run.
        input: the column that a model reads, or several columns of numbers.
        target: the column to predict; None for tokens.
        subset: of a dataset on the Hub that has some.
        train_split: name of the split to train on.
        val_split: likewise, of validation; default: `validation` where there is one, else `val_fraction` of the
            training split.
        test_split: likewise, of the test; default: `test` or `test_fraction`.
        val_fraction: of the training rows; each class gets its share.
        test_fraction: likewise.
        image_shape: (C, H, W), C of 1 or 3, that images are resized to.
        pixel_mean_std: of the pixels in [0, 1], which they are normalised by.
        context_length: T.
        vocab_size: tokens are below it.
        num_classes: K, where the column does not name its classes.
        num_features: D, where the columns do not say it.
        seed: of the split.
        **loading: see `LoaderDataModule`.

    Attributes:
        classes: their names; None where there are none, and before `setup`.
        mean: of the pixels in [0, 1], like `std`.

    Raises:
        UserError: when a column or a split is not there, or holds what does not fit.
        RunFailed: when the dataset cannot be had.
    """

    def __init__(
        self,
        path: str,
        input: str | Sequence[str],  # noqa: A002  # the field's word
        target: str | None = None,
        subset: str | None = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        val_fraction: InnerFraction = 0.1,
        test_fraction: InnerFraction = 0.1,
        image_shape: ImageShape | None = None,
        pixel_mean_std: PixelMeanStd = (0.5, 0.5),
        context_length: PositiveInt | None = None,
        vocab_size: AtLeastTwo | None = None,
        num_classes: AtLeastTwo | None = None,
        num_features: PositiveInt | None = None,
        seed: Seed = 0,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if not has_package("datasets"):
            raise UserError("data=huggingface: the package datasets is not installed: pip install -e .[datasets]")
        if image_shape is not None and image_shape[0] not in (1, 3):
            raise UserError(f"data.image_shape={[*image_shape]}: images are read with 1 or 3 channels")
        self.path, self.input, self.target, self.subset = path, input, target, subset
        self.split_names = {"train": train_split, "val": val_split, "test": test_split}
        self.held_out = {"val": val_fraction, "test": test_fraction}
        self.image_shape, self.pixel_mean_std, self.context_length = image_shape, pixel_mean_std, context_length
        self.mean, self.std = pixel_mean_std
        self.vocab_size, self.num_classes, self.num_features = vocab_size, num_classes, num_features
        self.seed = seed
        self.classes: list[str] | None = None
        self.dims: dict[str, Any] = {}
        self.predict_suffixes = SUFFIXES + TABLES if image_shape else TABLES

    @property
    def preparation(self) -> dict[str, Any]:
        return {"classes": self.classes, "dims": self.dims}

    def restore(self, preparation: dict[str, Any]) -> None:
        self.classes, self.dims = preparation["classes"], preparation["dims"]

    def prepare_data(self) -> None:
        if not Path(self.path).exists():
            self.read()  # downloads

    def load(self) -> Splits:
        found, tables = self.read(), {}
        for name, usual in (("train", "train"), ("val", "validation"), ("test", "test")):
            split = self.split_names[name]
            if (split or usual) in found:
                tables[name] = found[split or usual]
            elif split:
                near = nearest(split, found)
                raise UserError(
                    f"data.{name}_split={split}: no such split in {self.path}{near}\nsplits: {', '.join(found)}"
                )
        self._check_features(tables["train"].features)
        tables = {name: self._check_rows(table, f"{name} split") for name, table in tables.items()}
        targets = None if self.target is None else torch.tensor(_column(tables["train"], self.target).to_numpy())
        parts: Splits = {name: self._samples(table, self.target) for name, table in tables.items()}
        return hold_out(parts, self.held_out, targets, self.seed)

    def read(self) -> "Mapping[str, Table]":
        """Returns the splits of the dataset, from the disk, or from the Hub and its cache."""
        import datasets

        on_disk = Path(self.path).exists()
        try:
            found = datasets.load_from_disk(self.path) if on_disk else datasets.load_dataset(self.path, self.subset)
        except (OSError, RuntimeError, ValueError) as error:
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            if on_disk:
                raise RunFailed(f"data.path={self.path} cannot be read: {cause}\nsave the dataset again") from error
            near = nearest(self.path, [folder.name for folder in Path().glob("*/")])
            raise RunFailed(
                f"data.path={self.path} is no folder here{near}, and cannot be had from the Hub: {cause}\n"
                f"where there is a network: datasets.load_dataset({self.path!r}).save_to_disk(DIR); then data.path=DIR"
            ) from error
        return found if isinstance(found, dict) else {"train": found}

    def predict_inputs(self, paths: Sequence[Path]) -> DataLoader[Any]:
        """Returns a loader of image files, or of the rows of Arrow and Parquet files, with targets if all have some."""
        from datasets import concatenate_datasets

        rows: Any = [{names(self.input)[0]: {"path": str(path)}} for path in paths if path.suffix.lower() in SUFFIXES]
        tables = [_read_table(path, names(self.input)) for path in paths if path.suffix in TABLES]
        if rows and tables:
            raise UserError(f"in={paths[0]} and others: give images or tables, not both at once")
        with_target = bool(tables) and all(self.target in table.column_names for table in tables)
        samples = self._samples(rows or concatenate_datasets(tables), self.target if with_target else None)
        loader: Any = DataLoader(samples, self.eval_batch_size)
        if rows:
            loader.row_names = {"file": [str(path) for path in paths]}
        return loader

    def _check_features(self, features: Any) -> None:
        """Refuses columns that hold something else than the model was made for, or than the run was trained on."""
        classes = getattr(features.get(self.target), "names", None)
        found = {"classes": classes, "dims": dims(vars(self), features.to_dict())}
        expected = self.preparation if self.dims else {"classes": classes, "dims": dims(vars(self))}
        for what, value in found.items():
            if value != expected[what]:
                raise UserError(
                    f"{self.path}: its {what} are {value}, and the run's model was made for {expected[what]}"
                )
        self.restore(found)

    def _check_rows(self, table: "Table", name: str) -> "Table":
        """Refuses labels, values and tokens out of range, and leaves out rows of tokens that nothing follows."""
        import pyarrow.compute as pc

        where = f"{self.path}, {name} split: {self.target or self.input}"
        if self.target is not None:
            values, classes = _column(table, self.target).to_numpy(), self.dims.get("classes")
            good = np.isfinite(values) if classes is None else (values >= 0) & (values < classes)
            for row in np.flatnonzero(~good)[:1]:
                wanted = "a number" if classes is None else f"one of {classes} classes"
                raise RunFailed(
                    f"{where} of row {row} is {values[row]}, and not {wanted}: so it is in {(~good).sum()} rows of"
                    f" {len(good)}\ngive a split whose targets are known"
                )
        if self.context_length is None:
            return table
        column, vocab = _column(table, names(self.input)[0]), self.dims["vocab"]
        if (most := pc.max(pc.list_flatten(column)).as_py() or 0) >= vocab:
            raise RunFailed(
                f"{where} holds the token {most}, and data.vocab_size={vocab}: give the size of the vocabulary that"
                " made the tokens"
            )
        rows = np.flatnonzero(pc.fill_null(pc.greater(pc.list_value_length(column), 1), False))
        if len(rows) == len(table):
            return table
        log.info("%s: left out %d rows without two tokens", where, len(table) - len(rows))
        return table.select(rows)

    def _samples(self, rows: Any, target: str | None = None) -> "RowSamples":
        """Makes samples of a dataset's rows, or of a list of them."""
        from datasets import Image

        columns = names(self.input)
        if self.image_shape is not None:
            read: Reader = partial(_read_picture, columns[0], self.image_shape, self.pixel_mean_std)
        elif self.context_length is not None:
            read = partial(_read_tokens, columns[0], self.context_length)
        else:
            read = partial(_read_numbers, columns, self.dims["features"])
        if not isinstance(rows, list):
            rows = rows.select_columns([*columns, *([target] if target else [])])
            rows = rows.cast_column(columns[0], Image(decode=False)) if self.image_shape else rows.with_format("torch")
        return RowSamples(rows, read, target)


class RowSamples(Dataset[Any]):
    """Reads a sample of each row: an input and a target, the input alone where there is no target.

    Args:
        rows: dictionaries of columns.
        read: makes the input of a row and its number; of tokens it makes the targets too.
        target: column of a label or a value.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], read: Reader, target: str | None) -> None:
        self.rows, self.read, self.target = rows, read, target

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        row = self.rows[i]
        x = self.read(row, i)
        if self.target is None:
            return x
        y = torch.as_tensor(row[self.target])  # ()
        return x, y.float().view(1) if y.is_floating_point() else y.long()


def _read_picture(column: str, shape: Sequence[int], mean_std: PixelMeanStd, row: dict[str, Any], i: int) -> Tensor:
    """Returns an image (C, H, W), normalised."""
    content, path = row[column].get("bytes"), row[column]["path"]
    file = BytesIO(content) if content else Path(path)
    return normalise(read_image(file, shape, name=f"{column} of row {i}" if content else ""), *mean_std)


def _read_numbers(columns: Sequence[str], width: int, row: dict[str, Any], i: int) -> Tensor:
    """Returns the numbers of all columns (D,)."""
    x = torch.cat([torch.as_tensor(row[column]).float().flatten() for column in columns])
    if len(x) != width:
        raise RunFailed(f"row {i} has {len(x)} numbers in {', '.join(columns)}, and the model reads {width}")
    return x


def _read_tokens(column: str, context_length: int, row: dict[str, Any], i: int) -> tuple[Tensor, Tensor]:
    """Returns the first tokens (T,) and those that follow (T,)."""
    window = torch.as_tensor(row[column][: context_length + 1])
    tokens = torch.zeros(context_length, dtype=torch.long)
    targets = torch.full_like(tokens, IGNORED)
    tokens[: len(window) - 1], targets[: len(window) - 1] = window[:-1], window[1:]
    return tokens, targets


def _read_table(path: Path, columns: Sequence[str]) -> "Table":
    """Reads an Arrow or a Parquet file with these columns."""
    import datasets
    from pyarrow import ArrowInvalid, parquet

    try:
        is_arrow = path.suffix == ".arrow"
        table = datasets.Dataset.from_file(str(path)) if is_arrow else datasets.Dataset(parquet.read_table(path))
    except ArrowInvalid as error:
        raise UserError(f"in={path} cannot be read: {str(error).splitlines()[0]}") from error
    for column in columns:
        check_column("input", column, table.column_names, path)
    return table


def _column(table: "Table", name: str) -> Any:
    """Returns a column as Arrow has it, without decoding the others."""
    return table.select_columns([name]).with_format("arrow")[:].column(0)
