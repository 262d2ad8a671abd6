"""Trains any model on any dataset that fits it: python src/train.py model=lenet data=mnist"""

import os
import sys

from lab.engine.cli.start import start

if __name__ == "__main__":
    start()

from lab.engine.cli.help import answer_help

if __name__ == "__main__":
    answer_help(sys.argv[1:])  # at once: Hydra loads below

import hydra
from omegaconf import DictConfig

from lab.engine.cli.arguments import hydra_arguments
from lab.engine.cli.command import check_command, resolve
from lab.engine.cli.errors import user_errors
from lab.engine.distributed.refusal import refused_together
from lab.engine.sweeps.workers import outlive_job


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    cfg = resolve(cfg)  # of a run that goes on, what it saved
    from lab.engine.training.train import train  # torch and Lightning load here, once the config is known to be right

    with outlive_job():
        return train(cfg)


if __name__ == "__main__":
    with user_errors():
        with refused_together():
            sys.argv[1:] = hydra_arguments(sys.argv[1:], os.environ)
            check_command(sys.argv[1:])
        main()
