"""Logs the size of a model."""

import logging

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger(__name__)


class Summary(pl.Callback):
    """Logs the number of parameters of the model and of each of its layers."""

    @rank_zero_only
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        sizes = {name: sum(p.numel() for p in layer.parameters()) for name, layer in pl_module.named_children()}
        layers = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size)
        frozen = sum(p.numel() for p in pl_module.parameters() if not p.requires_grad)
        log.info(
            "%s: %s parameters (%s)%s",
            type(pl_module).__name__,
            f"{sum(p.numel() for p in pl_module.parameters()):,}",
            layers,
            f", {frozen:,} of them frozen" if frozen else "",
        )
