"""A sweep's command line, checked before the first job is trained and before a directory is made."""

from omegaconf import DictConfig

from lab.engine.config.compose import parse, search_path
from lab.engine.config.override_rules import check_groups, check_overrides
from lab.engine.config.security import PLUGINS
from lab.engine.config.validate import check_nodes, nodes, validate
from lab.engine.sweeps.constraints import check_constraints
from lab.engine.sweeps.resume import whole_sweep
from lab.engine.sweeps.validate_jobs import jobs
from lab.engine.sweeps.validate_sweeper import check_optuna, is_optuna, read_space
from lab.engine.utils.errors import UserError


def validate_sweep(config: DictConfig) -> None:
    """Holds the sweeper's settings, and the config of every job, against what they must hold.

    Args:
        config: as Hydra composed it for the sweep, its `hydra` node included.

    Raises:
        UserError: on the first thing that is wrong.
    """
    config, overrides = whole_sweep(config)
    sweeper, launcher = config.hydra.sweeper, config.hydra.launcher
    if str(launcher.get("_target_")).startswith("hydra_plugins."):
        check_nodes(nodes(launcher, "hydra.launcher"), PLUGINS)
    check_groups(parse(overrides))
    space = read_space(sweeper, [*search_path(config), *overrides])
    constraints = check_optuna(sweeper, space) if is_optuna(sweeper) else []
    made: list[DictConfig] = []
    for job, words in jobs(space):
        if not made:
            check_overrides(words, job)
        try:
            validate(job)
        except UserError as error:
            drawn = [word for word in words if word not in space.fixed]
            for key, parameter in space.parameters.items():
                if str(error).startswith(f"{key}=") and parameter.is_interval and "whole number" in str(error):
                    raise UserError(f"{error}\nwrite {key}=int({parameter.text})") from error
            raise UserError(f"{error}\nin the job {' '.join(drawn)}" if drawn else str(error)) from error
        made.append(job)
    check_constraints(constraints, made)
