"""Trains any model on any dataset that fits it: python src/train.py model=lenet data=mnist"""

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lab.engine.cli.arguments import hydra_arguments
from lab.engine.cli.errors import check_flags, user_errors
from lab.engine.config.overrides import raw_overrides
from lab.engine.config.validate import validate
from lab.engine.runs.resume import resumed_config
from lab.engine.sweeps.workers import outlive_job


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    given = cfg.changes if cfg.resume not in (None, "auto") or cfg.attach else HydraConfig.get().overrides.task
    cfg = resumed_config(cfg)
    validate(cfg, raw_overrides(given))
    from lab.engine.training.train import train  # torch and Lightning load here, once the config is known to be right

    with outlive_job():
        return train(cfg)


if __name__ == "__main__":
    with user_errors():
        check_flags(sys.argv[1:])
        sys.argv[1:] = hydra_arguments(sys.argv[1:], os.environ)
        main()
