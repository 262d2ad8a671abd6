"""Keeps in a run's checkpoints what its data were prepared by, and which data they were."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lab.engine.utils.errors import UserError
from lab.engine.utils.files import checksum


class PreparedDataModule(pl.LightningDataModule):
    """Is the base of data that prepares its samples by what the training rows say, or that the user brings.

    Attributes:
        checksum: of the source, as it was read; `setup` sets it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.checksum: str | None = None

    @property
    def source(self) -> Path | None:
        """Returns the user's file or folder with the samples, if there is one: it must be the same to resume a run."""
        return None

    def source_checksum(self) -> str | None:
        """Returns a checksum of the source; None where there is none."""
        return checksum(self.source) if self.source and self.source.is_file() else None

    @property
    def optimal_metrics(self) -> dict[str, float]:
        """Returns the best that a model can reach on the test set, by metric, where that is known; after `setup`."""
        return {}

    @property
    def preparation(self) -> dict[str, Any]:
        """Returns the statistics of the training rows by which other inputs are prepared; checkpoints hold them."""
        return {}

    def restore(self, preparation: dict[str, Any]) -> None:
        """Makes later inputs be prepared by a saved `preparation`, not by their own statistics; does nothing here."""

    def state_dict(self) -> dict[str, Any]:
        state = {"preparation": self.preparation, "checksum": self.checksum}
        return {name: value for name, value in state.items() if value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.source and state_dict.get("checksum") not in (None, self.source_checksum()):
            raise UserError(
                f"{self.source} is not the {'folder' if self.source.is_dir() else 'file'} that this run was trained on:"
                " its content has changed\n"
                "put it back as it was, or begin a new run"
            )
        if preparation := state_dict.get("preparation"):
            self.restore(preparation)
