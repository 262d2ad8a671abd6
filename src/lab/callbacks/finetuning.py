"""Freezes layers of any model, and lets them learn again, the last first."""

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest
from lab.engine.utils.ranges import NonNegativeInt

log = logging.getLogger(__name__)


class Finetuning(pl.Callback):
    """Freezes modules of a model for some epochs, then lets one after the other learn, the last first.

    A frozen module gets no gradient, and is in evaluation mode: its batch norms keep their statistics.

    Not on Lightning's BaseFinetuning, which gives an optimizer more groups of parameters as layers begin to learn:
    schedules such as `onecycle` and `cosine` refuse those. Here the optimizer has all parameters from the beginning,
    and passes over those without a gradient.

    Args:
        frozen: names of modules, from the input on; `*` stands for any name at its place (`layer*`, `blocks.*`). None
            for every child of the model that has parameters, but the last.
        unfreeze_at_epoch: epoch, from 0, in which the last of them begins to learn; None for never.
        unfreeze_every: epochs between two of them; 0 lets all go at once.

    Source: Howard and Ruder 2018, section 3.3.
    """

    def __init__(
        self,
        frozen: Sequence[str] | None = None,
        unfreeze_at_epoch: NonNegativeInt | None = 1,
        unfreeze_every: NonNegativeInt = 1,
    ) -> None:
        self.frozen = frozen
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self.unfreeze_every = unfreeze_every
        self.parts: dict[str, tuple[nn.Module, list[nn.Parameter]]] = {}  # of each the parameters that would learn

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.parts.clear()
        left = {p for p in pl_module.parameters() if p.requires_grad}
        for name in find_modules(pl_module, self.frozen):
            part = pl_module.get_submodule(name)
            learning = [p for p in part.parameters() if p in left]
            self.parts[name] = part, learning
            left.difference_update(learning)
        if not left:
            raise UserError(f"callbacks.finetune.frozen={self.frozen} leaves nothing in the model that learns")
        wrapped = trainer.model
        if isinstance(wrapped, DistributedDataParallel) and not wrapped.find_unused_parameters:
            raise UserError(
                "callbacks.finetune: ranks must know that some layers do not learn, so use"
                " trainer.strategy=ddp_find_unused_parameters_true"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._log_frozen(trainer.current_epoch)
        self.freeze(trainer.current_epoch)  # a run resumed within an epoch has no start of it

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.num_frozen(trainer.current_epoch) != self.num_frozen(trainer.current_epoch - 1):
            self._log_frozen(trainer.current_epoch)
        self.freeze(trainer.current_epoch)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for _, parameters in self.parts.values():  # as the model was given, also where nothing was left to train
            for p in parameters:
                p.requires_grad_(True)

    def num_frozen(self, epoch: int) -> int:
        """Returns how many of the modules are frozen in an epoch."""
        if self.unfreeze_at_epoch is None or epoch < self.unfreeze_at_epoch:
            return len(self.parts)
        if self.unfreeze_every == 0:
            return 0
        return max(0, len(self.parts) - 1 - (epoch - self.unfreeze_at_epoch) // self.unfreeze_every)

    def freeze(self, epoch: int) -> None:
        """Freezes the modules that do not learn in an epoch, and lets the others learn."""
        for i, (part, parameters) in enumerate(self.parts.values()):
            learns = i >= self.num_frozen(epoch)
            part.train(learns)
            for p in parameters:
                p.requires_grad_(learns)

    @rank_zero_only
    def _log_frozen(self, epoch: int) -> None:
        log.info("frozen: %s", ", ".join([*self.parts][: self.num_frozen(epoch)]) or "nothing")


def find_modules(model: nn.Module, patterns: Sequence[str] | None) -> list[str]:
    """Returns the names of the modules with parameters that match, in the order of the patterns, then of the model.

    Raises:
        UserError: for a pattern that names none.
    """
    names = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    if patterns is None:
        return [name for name in names if "." not in name][:-1]
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = [name for name in names if fnmatchcase(name, pattern) and name.count(".") == pattern.count(".")]
        if not fitting:
            raise UserError(
                f"callbacks.finetune.frozen: {pattern} names no module of {type(model).__name__} that has parameters"
                f"{nearest(pattern, names)}\nit has {', '.join(name for name in names if '.' not in name)}"
            )
        found |= dict.fromkeys(fitting)
    return [*found]
