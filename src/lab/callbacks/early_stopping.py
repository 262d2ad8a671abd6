"""Ends training when the objective no longer improves."""

from typing import Any, Literal

from pytorch_lightning.callbacks import EarlyStopping as Base

from lab.engine.utils.ranges import NonNegativeFloat, NonNegativeInt


class EarlyStopping(Base):
    """Ends training when a metric no longer improves; a resumed run may change its patience.

    Args:
        monitor: the metric.
        mode: whether `min` or `max` of it is best.
        patience: validations without improvement before training ends.
        min_delta: smallest change that is an improvement.
        **options: of `pytorch_lightning.callbacks.EarlyStopping`.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        patience: NonNegativeInt = 5,
        min_delta: NonNegativeFloat = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(monitor, min_delta, patience, mode=mode, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})
