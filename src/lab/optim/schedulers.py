"""Defines the learning-rate schedules that configs name and tasks build."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from lab.engine.utils.ranges import Fraction, PositiveFloat, PositiveInt, Probability


def cosine(
    optimizer: Optimizer, total_steps: PositiveInt, warmup: Probability = 0.05, min_lr_ratio: Fraction = 0.0
) -> LambdaLR:
    """Builds a schedule: linear warm-up, then half a cosine down to the end.

    Args:
        optimizer: whose learning rates are the peak.
        total_steps: optimizer steps of the whole fit.
        warmup: share of `total_steps` spent rising.
        min_lr_ratio: share of the peak that is left at the end.

    Source: Loshchilov and Hutter, SGDR, 2017, equation 5, for one cycle.
    """
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        progress = (step - rising) / max(1, total_steps - rising)
        return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


class OneCycle(OneCycleLR):
    """Restricts the state of `torch.optim.lr_scheduler.OneCycleLR` to the current step.

    So a resumed run with a new length follows the schedule of that length: torch's state would restore the old one.

    Args:
        optimizer: whose learning rates are set.
        max_lr: the peak; of each group of parameters where it is a list; None for the optimizer's own rates.
        total_steps: optimizer steps of the whole fit.
        pct_start: share of them spent rising.
        div_factor: the rate starts at `max_lr` divided by this.
        final_div_factor: and ends at the first rate divided by this.
        **options: of torch's.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: PositiveFloat | list[PositiveFloat] | None = None,
        total_steps: PositiveInt | None = None,
        pct_start: Fraction = 0.3,
        div_factor: PositiveFloat = 25.0,
        final_div_factor: PositiveFloat = 1e4,
        **options: Any,
    ) -> None:
        rates = [group["lr"] for group in optimizer.param_groups]
        super().__init__(
            optimizer,
            rates if max_lr is None else max_lr,
            total_steps,
            pct_start=pct_start,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
            **options,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch = state_dict["last_epoch"]
