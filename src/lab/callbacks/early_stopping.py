"""The end of training when the objective no longer gets better."""

from typing import Any

from pytorch_lightning.callbacks import EarlyStopping as Base


class EarlyStopping(Base):
    """Lightning's own; a run that goes on with another patience has that one, and not the one that it had saved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})
