"""Predicts with any model on any data: a row for each sample, by Lightning's own prediction loop."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl

from lab.engine.inference.columns import to_columns
from lab.engine.inference.forward import forward_arguments
from lab.engine.inference.output import Columns
from lab.engine.inference.progress import Bar
from lab.engine.utils.errors import UserError

STAGES = {"train": "fit", "val": "fit", "test": "test", "predict": "predict"}  # what `setup` is told for a split


class Loader:
    """Goes through a loader as it is: of a DataLoader, Lightning would make another one to predict."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]  # TypeError where it has none, as Lightning expects


class PredictionData:
    """What to predict: a part of a datamodule, or files.

    Args:
        data: the datamodule.
        split: `train`, `val`, `test` or `predict`.
        paths: files to read instead of a split, by the data's `predict_inputs`, which returns a loader. The loader's
            `row_names`, one named column, says what the rows are; without it they are counted.
    """

    def __init__(self, data: pl.LightningDataModule, split: str = "test", paths: Sequence[Any] = ()) -> None:
        self.data = data
        self.split = split
        self.paths = paths
        self.row_names: Columns = {}

    def datamodule(self) -> pl.LightningDataModule:
        """Returns a datamodule of the data's own class, and with its state, that predicts this part.

        So its hooks run as they were written, and know the trainer.
        """
        asked, data = self, self.data

        class Part(type(data)):  # type: ignore[misc]
            def __init__(self) -> None:
                self.__dict__ = vars(data)  # shared: what the trainer or `setup` sets, both have

            def prepare_data(self) -> None:
                if not asked.paths:
                    data.prepare_data()

            def setup(self, stage: str) -> None:
                if not asked.paths:
                    data.setup(STAGES[asked.split])

            def predict_dataloader(self) -> list[Loader]:
                return asked.loaders()

        return Part()

    def loaders(self) -> list[Loader]:
        """Returns what is gone through, once the data is set up."""
        if not self.paths:
            return [Loader(loader) for loader in _several(split_loaders(self.data, self.split))]
        data: Any = self.data
        loader = data.predict_inputs(self.paths)
        self.row_names = getattr(loader, "row_names", {})
        return [Loader(loader)]


class Forward(pl.LightningModule):
    """Predicts by `forward` of a model that has no `predict_step` of its own."""

    def __init__(self, model: pl.LightningModule) -> None:
        super().__init__()
        self.model = model

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        args, kwargs = forward_arguments(self.model, batch)
        return self.model(*args, **kwargs)


class Rows(pl.Callback):
    """Gathers what a model says of each batch, on the CPU."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.columns: Columns = {}
        self.answers: list[str] = []  # the columns of the first output

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        found = to_columns(outputs)
        columns = {name: column for group in found.values() for name, column in group.items()}
        if len(trainer.num_predict_batches) > 1:
            columns["loader"] = [dataloader_idx] * len(next(iter(columns.values())))
        if self.columns and list(columns) != list(self.columns):
            raise UserError(f"batch {batch_idx} has columns {', '.join(columns)}, and before {', '.join(self.columns)}")
        self.answers = list(next(iter(found.values())))
        for name, column in columns.items():
            self.columns.setdefault(name, []).extend(column)
        total = sum(trainer.num_predict_batches)
        self.bar.advance(total if isinstance(total, int) else None)


def predict(model: pl.LightningModule, data: PredictionData) -> tuple[Columns, list[str]]:
    """Runs `model` over all of `data`, in evaluation, on one device.

    Args:
        model: with `predict_step`, which returns a dictionary of columns, or else with a `forward`.
        data: what to predict.

    Returns:
        Columns, each with a value for each sample, the first says which; and the names of those that are the answer
        itself: the first output.
    """
    with Bar("predicting", None) as bar:
        rows = Rows(bar)
        trainer = pl.Trainer(
            accelerator="auto", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[rows],
        )  # fmt: skip
        own = type(model).predict_step is not pl.LightningModule.predict_step
        trainer.predict(model if own else Forward(model), datamodule=data.datamodule(), return_predictions=False)
    if not rows.columns:
        raise UserError("nothing to predict: the data has no batch")
    number = len(rows.columns[rows.answers[0]])
    counted = {"row": list(range(1, number + 1))} if data.paths else {"index": list(range(number))}
    return (data.row_names or counted) | rows.columns, rows.answers


def split_loaders(data: Any, split: str) -> Any:
    """Returns the loader or loaders of a split, in evaluation order where the data offers `eval_dataloader`.

    Raises:
        UserError: when the data has no such loader.
    """
    if split != "predict" and hasattr(data, "eval_dataloader"):
        return data.eval_dataloader(split)
    name = f"{split}_dataloader"
    if getattr(type(data), name) is getattr(pl.LightningDataModule, name):
        raise UserError(f"in={split}: the run's data ({type(data).__name__}) has no {name}")
    return getattr(data, name)()


def first_batch(data: Any) -> Any:
    """Returns the first batch of the test data, or of the first split that has a loader."""
    data.prepare_data()
    for split in ("test", "val", "train"):
        name = f"{split}_dataloader"
        if getattr(type(data), name) is not getattr(pl.LightningDataModule, name):
            data.setup(STAGES[split])
            return next(iter(_several(getattr(data, name)())[0]))
    raise UserError(f"the run's data ({type(data).__name__}) has no loader: give the model an example_input_array")


def _several(found: Any) -> list[Any]:
    if isinstance(found, Mapping):
        return list(found.values())
    return list(found) if isinstance(found, list | tuple) else [found]
