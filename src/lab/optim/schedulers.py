"""Learning-rate schedules, as the factories that configs name and tasks call."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from lab.engine.utils.errors import UserError


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
        raise UserError(f"scheduler.warmup={warmup} is no share of the steps: give a number from 0 to below 1")
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        progress = (step - rising) / max(1, total_steps - rising)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


class OneCycle(OneCycleLR):
    """`torch.optim.lr_scheduler.OneCycleLR`, whose state is the step that it has come to.

    A run that goes on for longer than it was to does so over its new length: torch's state would bring the old one.
    """

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch = state_dict["last_epoch"]
