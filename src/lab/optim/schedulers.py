"""Learning-rate schedules, as the factories that configs name and tasks call."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR


def cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, final: float = 0.0) -> LambdaLR:
    """Linear warm-up, then half a cosine down to the end.

    Args:
        optimizer: whose learning rates are the peak.
        total_steps: optimizer steps of the whole fit.
        warmup: share of `total_steps` spent rising, in [0, 1).
        final: share of the peak that is left at the end.

    Source: Loshchilov and Hutter, SGDR, 2017, equation 5, for one cycle.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"scheduler.warmup={warmup} is no share of the steps: give a number from 0 to below 1")
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        progress = (step - rising) / max(1, total_steps - rising)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


class OneCycle(OneCycleLR):
    """`torch.optim.lr_scheduler.OneCycleLR`; of a run that goes on for longer than it was to, over its new length."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        length = ("total_steps", "_schedule_phases")
        super().load_state_dict({key: value for key, value in state_dict.items() if key not in length})
