"""Lets a process join a run by its directory: other ranks, and the jobs of hydra/launcher=gpu_pool."""

import os
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lab.engine.runs.recorder import save_config
from lab.engine.utils.paths import ROOT


def attach_command(directory: Path) -> list[str]:
    """Returns the command line of a process that joins the run in `directory`, with the config saved there.

    The variable `LAB_SCRIPT` replaces src/train.py: tests inject faults so.
    """
    script = os.environ.get("LAB_SCRIPT", str(ROOT / "src" / "train.py"))
    return [sys.executable, script, f"attach={directory.resolve()}"]


def prepare(directory: Path, config: DictConfig) -> None:
    """Creates the directory of a run for another process to train, with the files that Hydra and the recorder write.

    Args:
        directory: of the run.
        config: as Hydra composed it for the run, its `hydra` node included.
    """
    (directory / ".hydra").mkdir(parents=True, exist_ok=True)
    with read_write(config), open_dict(config):
        config.hydra.runtime.output_dir = str(directory)
    task_config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    OmegaConf.copy_cache(from_config=config, to_config=task_config)
    save_config(directory, task_config, config)
