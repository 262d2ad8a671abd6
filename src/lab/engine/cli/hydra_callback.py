"""Checks a command line before Hydra makes a directory."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lab.engine.cli.errors import user_errors
from lab.engine.config.checks.overrides import check_groups, check_overrides
from lab.engine.config.compose import parse
from lab.engine.config.overrides import raw_overrides
from lab.engine.config.validate import validate, validate_composed
from lab.engine.runs.resume import is_first, merge_resumed_config
from lab.engine.sweeps.constraints import check_constraints
from lab.engine.sweeps.sweep import is_job
from lab.engine.sweeps.validate_jobs import composed, jobs
from lab.engine.sweeps.validate_sweeper import check_optuna, is_optuna, read_space
from lab.engine.utils.errors import UserError


class Check(Callback):
    """Checks before Hydra makes a directory, so that a wrong command line leaves nothing behind."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with user_errors():
            job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            words = raw_overrides(config.hydra.overrides.task)
            validate(merge_resumed_config(job, words), words)
            given = not OmegaConf.is_interpolation(config.hydra.run, "dir")  # else it is a new one, with the time in it
            directory = Path(config.hydra.run.dir) if given else None
            # Lightning starts the other ranks in the directory of rank 0
            began = directory is not None and (directory / "run.json").exists() and not is_job(directory)
            if began and not job.resume and not job.attach and is_first():
                raise UserError(
                    f"{directory} holds a run already: go on with it by resume={directory},"
                    " or choose another hydra.run.dir"
                )

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first job is trained the last one is known to be right."""
        with user_errors():
            sweeper, words = config.hydra.sweeper, raw_overrides(config.hydra.overrides.task)
            check_groups(parse(words))
            space = read_space(sweeper, words)
            constraints = check_optuna(sweeper, space) if is_optuna(sweeper) else []
            check_overrides([*space.fixed, *composed(space)])
            made = []
            for job, overrides in jobs(space):
                validate_composed(job, overrides)
                made.append(job)
            check_constraints(constraints, made)
