"""Trains any model on any dataset that fits it: python src/train.py model=lenet data=mnist"""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lab.answers import check_flags, explained, rank_directory
from lab.config import check
from lab.resume import resumed, settle
from lab.sweeps.resume import continue_sweep
from lab.words import typed


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    overrides = typed(HydraConfig.get().overrides.task)
    cfg = settle(cfg, overrides)
    check(cfg, overrides)
    from lab.training import train  # torch and Lightning load here, once the config is known to be right

    return train(cfg)


if __name__ == "__main__":
    with explained(), rank_directory():
        check_flags(sys.argv[1:])
        continue_sweep()
        with resumed():
            main()
