"""Predicts with any model on any data by Lightning's prediction loop: a table with a row for each sample."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars
import pytorch_lightning as pl
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from lab.engine.inference.forward import forward_arguments, named_outputs
from lab.engine.utils.errors import UserError

STAGES = {"train": "fit", "val": "fit", "test": "test", "predict": "predict"}  # what `setup` is told for a split
MAX_COLUMNS = 4096  # of one output


class Loader:
    """Wraps a loader, so that Lightning does not replace a DataLoader by one of its own to predict."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]  # TypeError where it has none, as Lightning expects


class TableWriter(pl.Callback):
    """Collects a model's predictions for each batch in tables, on the CPU."""

    def __init__(self) -> None:
        self.tables: list[polars.DataFrame] = []
        self.main_columns: list[str] = []  # the columns of the first output

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        found = to_columns(outputs)
        self.main_columns = [column.name for column in next(iter(found.values()))]
        table = polars.DataFrame([column for columns in found.values() for column in columns])
        if len(trainer.num_predict_batches) > 1:
            table = table.with_columns(loader=dataloader_idx)
        if self.tables and table.columns != (before := self.tables[0].columns):
            raise UserError(f"batch {batch_idx} has columns {', '.join(table.columns)}, and before {', '.join(before)}")
        self.tables.append(table)


def predict(
    model: pl.LightningModule, data: Any, split: str = "test", files: Sequence[Any] = ()
) -> tuple[polars.DataFrame, list[str]]:
    """Runs `model` over data, in evaluation, on one device.

    Args:
        model: with `predict_step`, which returns a dictionary of columns, or else with a `forward`.
        data: the datamodule; None for a model that has its own loaders.
        split: `train`, `val`, `test` or `predict`.
        files: read instead of a split, by the data's `predict_inputs`, which returns a loader. Its `row_names`, one
            named column, says what the rows are; without it they are counted.

    Returns:
        A row for each sample, whose first column says which; and the names of the columns that are the answer itself:
        the first output.

    Raises:
        UserError: when the model has neither, or there is no such loader.
    """
    own = is_overridden("predict_step", model)
    if not own and not is_overridden("forward", model):
        raise UserError(f"{type(model).__name__} has no predict_step and no forward: it predicts nothing")
    loader: Any = data.predict_inputs(files) if files else None
    source = model if data is None else data
    base: Any = pl.LightningDataModule if data is None else type(data)

    class Selection(base):
        """Serves the split or the files as `predict_dataloader`; the data's other hooks run unchanged."""

        def __init__(self) -> None:
            if data is None:
                super().__init__()
            else:
                self.__dict__ = vars(data)  # shared: what the trainer or `setup` sets, both have

        def prepare_data(self) -> None:
            if not files:
                source.prepare_data()

        def setup(self, stage: str) -> None:
            if not files:
                source.setup(STAGES[split])

        def predict_dataloader(self) -> list[Loader]:
            return [Loader(each) for each in ([loader] if files else split_loaders(source, split))]

    class Forward(type(model)):  # type: ignore[misc]
        """Predicts by `forward`; the model's other hooks run unchanged."""

        def __init__(self) -> None:
            self.__dict__ = vars(model)

        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            args, kwargs = forward_arguments(self, batch)
            return self(*args, **kwargs)

    writer = TableWriter()
    trainer = pl.Trainer(
        accelerator="auto", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(), callbacks=[writer],
    )  # fmt: skip
    trainer.predict(model if own else Forward(), datamodule=Selection(), return_predictions=False)
    if not writer.tables:
        raise UserError("nothing to predict: the data has no batch")
    table = polars.concat(writer.tables, how="vertical_relaxed")
    counted = {"row": range(1, len(table) + 1)} if files else {"index": range(len(table))}
    names = getattr(loader, "row_names", None) or counted
    first = [polars.Series(name, [*map(_utf8, values)]) for name, values in names.items() if name not in table.columns]
    return table.select(*first, polars.all()), writer.main_columns


def _utf8(value: Any) -> Any:
    """Returns a file's name with the bytes that are no UTF-8 as escapes; any other value as it is."""
    return os.fsencode(value).decode(errors="backslashreplace") if isinstance(value, str) else value


def split_loaders(source: Any, split: str) -> list[Any]:
    """Returns the loaders of a split, in evaluation order where the data offers `eval_dataloader`.

    Args:
        source: the data, or a model that has its own loaders.
        split: which.

    Raises:
        UserError: when the data has none.
    """
    if not _has_loader(source, split):
        raise UserError(f"in={split}: {_name(source)} has no {split}_dataloader")
    if split != "predict" and hasattr(source, "eval_dataloader"):
        return [source.eval_dataloader(split)]
    return CombinedLoader(getattr(source, f"{split}_dataloader")(), "sequential").flattened


def first_batch(source: Any) -> Any:
    """Returns the first batch of the test data, or of the first split that has a loader."""
    source.prepare_data()
    for split in ("test", "val", "train"):
        if _has_loader(source, split):
            source.setup(STAGES[split])
            return next(iter(split_loaders(source, split)[0]))
    raise UserError(f"{_name(source)} has no loader: give the model an example_input_array")


def _has_loader(source: Any, split: str) -> bool:
    name = f"{split}_dataloader"
    return getattr(type(source), name) is not getattr(pl.LightningDataModule, name)


def _name(source: Any) -> str:
    return f"the run's {'model' if isinstance(source, pl.LightningModule) else 'data'} ({type(source).__name__})"


def to_columns(outputs: Any) -> dict[str, list[polars.Series]]:
    """Returns the columns of each output: one for numbers, words or lists, and columns numbered from 1 for several
    numbers of each sample.

    Args:
        outputs: a dictionary of columns, a tensor, or any nesting of both; the first axis of a tensor counts samples.

    Raises:
        UserError: for what is no column.
    """
    found = {name: _columns(name, value) for name, value in named_outputs(outputs).items()}
    if not found:
        raise UserError("the model returned nothing for a batch: predict_step is to return a dict of columns")
    lengths = {column.name: len(column) for columns in found.values() for column in columns}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"the model's outputs for a batch have different lengths: {shown}; each needs a row a sample")
    return found


def _columns(name: str, value: Any) -> list[polars.Series]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        column = polars.Series(name, value, strict=False)
        return [polars.Series(name, map(str, value)) if column.dtype == polars.Object else column]
    if not isinstance(value, Tensor):
        raise UserError(f"{name}: {type(value).__name__} is no column: give a tensor or a list, a row a sample")
    if value.ndim == 0:
        raise UserError(f"{name}: one number for a whole batch is no column: give one for each sample")
    rows = value.detach().cpu().unsqueeze(-1).flatten(1)  # (B, ...) -> (B, K)
    if rows.shape[1] > MAX_COLUMNS:
        raise UserError(
            f"{name}: {tuple(value.shape[1:])} numbers for each sample are too many columns (at most {MAX_COLUMNS}):"
            " give the model a predict_step that says less"
        )
    if rows.is_floating_point() and rows.dtype.itemsize < 4:
        rows = rows.float()  # polars has no bfloat16
    names = [name] if rows.shape[1] == 1 else [f"{name}_{i + 1}" for i in range(rows.shape[1])]
    return polars.DataFrame(rows.numpy(), schema=names).get_columns()
