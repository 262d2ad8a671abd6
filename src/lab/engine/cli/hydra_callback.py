"""Checks a command line before Hydra makes a directory."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lab.engine.cli.errors import user_errors
from lab.engine.config.overrides import raw_overrides
from lab.engine.config.validate import validate
from lab.engine.runs.resume import resumed_config
from lab.engine.sweeps.validate import validate_sweep
from lab.engine.utils.errors import UserError
from lab.engine.utils.processes import global_rank


class Check(Callback):
    """Checks before Hydra makes a directory, so that a wrong command line leaves nothing behind."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with user_errors():
            job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            resumed = job.resume or job.attach
            validate(resumed_config(job), raw_overrides(job.changes if resumed else config.hydra.overrides.task))
            given = not OmegaConf.is_interpolation(config.hydra.run, "dir")  # else it is a new one, with the time in it
            directory = Path(config.hydra.run.dir) if given else None
            began = directory is not None and (directory / "run.json").exists()
            if began and not resumed and global_rank() == 0:
                raise UserError(
                    f"{directory} holds a run already: go on with it by resume={directory},"
                    " or choose another hydra.run.dir"
                )

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first job is trained the last one is known to be right."""
        with user_errors():
            validate_sweep(config)
