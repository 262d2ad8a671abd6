"""Trains any model on any dataset that fits it: python src/train.py model=lenet data=mnist"""

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lab.engine.cli.arguments import rank_arguments
from lab.engine.cli.errors import check_flags, user_errors
from lab.engine.config.overrides import raw_overrides
from lab.engine.config.validate import validate
from lab.engine.runs.resume import merge_resumed_config, resumed
from lab.engine.sweeps.resume import continue_sweep
from lab.engine.sweeps.workers import outlive_job


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    overrides = raw_overrides(HydraConfig.get().overrides.task)
    cfg = merge_resumed_config(cfg, overrides)
    validate(cfg, overrides)
    from lab.engine.training.train import train  # torch and Lightning load here, once the config is known to be right

    with outlive_job():
        return train(cfg)


if __name__ == "__main__":
    with user_errors():
        check_flags(sys.argv[1:])
        sys.argv[1:] = rank_arguments(sys.argv[1:], os.environ)
        continue_sweep()
        with resumed():
            main()
