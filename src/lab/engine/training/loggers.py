"""What loggers are told besides the curves."""

from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from lab.engine.utils.redaction import redact


def log_hyperparameters(logger: Logger, cfg: DictConfig, metrics: dict[str, float]) -> None:
    """What was chosen beside what came of it, for TensorBoard's HPARAMS page and its like."""
    chosen = {
        name: OmegaConf.to_container(cfg[name], resolve=True) if OmegaConf.is_config(cfg[name]) else cfg[name]
        for name in ("data", "model", "optimizer", "scheduler", "seed")
    }
    chosen["trainer"] = {name: cfg.trainer[name] for name in ("max_epochs", "precision", "accumulate_grad_batches")}
    chosen = redact(chosen)
    if isinstance(logger, TensorBoardLogger):
        logger.log_hyperparams(chosen, {f"final/{name}": value for name, value in metrics.items()})
    else:
        logger.log_hyperparams(chosen)


def continue_curves(cfg: DictConfig, steps: int, name: str) -> None:
    """Tells the loggers of a config that a run goes on.

    Args:
        cfg: of the run; its loggers are changed in place.
        steps: of the checkpoint that it goes on from.
        name: of the run, the same each time.
    """
    with open_dict(cfg):
        for logger in (cfg.logger or {}).values():
            kind = logger._target_.rpartition(".")[2]
            if kind == "TensorBoardLogger":
                logger.purge_step = steps  # what a run that was killed had drawn beyond its checkpoint
            elif kind == "CSVLogger":
                logger.version = f"{logger.version}-{steps}"  # Lightning's begins with removing what is there
            elif kind == "WandbLogger":
                logger.id, logger.resume = name, "allow"
