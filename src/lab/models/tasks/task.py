"""Defines the base of every task: the optimizer and the schedule that a config names, and penalties on the weights."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from lab.data.draws import Draws
from lab.engine.utils.ranges import NonNegativeFloat
from lab.optim.optimizers import OptimizerFactory, configure
from lab.optim.regularization import penalty


class Task(pl.LightningModule):
    """Saves a model's arguments as hyperparameters, and trains it with the optimizer and the schedule of its config.

    Args:
        l1: weight of the penalty on the weights' absolute values, see `regularization.penalty`; training only.
        l2: weight of the penalty on half the weights' squares, likewise.
        optimizer: factory, called with the parameters; needed to train.
        scheduler: see `lab.optim.optimizers.configure`.
    """

    factories: tuple[str, ...] = (
        "optimizer",
        "scheduler",
    )  # arguments that are no plain values, and no hyperparameters

    def __init__(
        self,
        l1: NonNegativeFloat = 0.0,
        l2: NonNegativeFloat = 0.0,
        optimizer: OptimizerFactory | None = None,
        scheduler: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        # Called here it sees the arguments of the subclasses as well
        self.save_hyperparameters(ignore=list(self.factories), logger=False)
        self.l1, self.l2 = l1, l2
        self.optimizer, self.scheduler = optimizer, scheduler
        self.seed = torch.initial_seed()  # the same on every rank: later each has one of its own, for dropout

    def penalty(self) -> Tensor | float:
        """Returns the L1 and L2 penalty that a training step adds to its loss."""
        return penalty(self, self.l1, self.l2)

    def draws(self, count: int, *key: int) -> Draws:
        """Returns random numbers for each of the `count` samples of this rank's training batch.

        They depend on the run's seed, the number of the batch, the sample's place in the batch of all ranks and `key`
        alone: ranks draw what one process would draw, and a resumed run goes on with the next ones.
        """
        first = self.global_rank * count
        samples = torch.arange(first, first + count, device=self.device)
        return Draws(samples, self.seed, self.trainer.fit_loop.total_batch_idx, *key)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure(self, self.optimizer, self.scheduler)
