"""Opens the study of a sweep, Optuna's record of its trials, in the sweep and in its jobs."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lab.engine.sweeps.samplers import build_pruner, prunes
from lab.engine.sweeps.storage import open_storage
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.errors import UserError

if TYPE_CHECKING:
    from optuna import Study

    from lab.engine.compat.optuna import AskTellStudy

DECIDED = "pruning"  # the attribute of a trial that holds the pruner's last answer
# The override that each job of a sweep that prunes is given
PRUNING = "++callbacks.pruning={_target_:lab.engine.sweeps.pruning.Pruning,directory:${paths.run_dir}}"


def sweeper_config(directory: Path) -> dict[str, Any]:
    """Returns `hydra.sweeper` of the sweep in `directory`, with its objectives; empty if it is no Optuna sweep.

    Interpolations are resolved here, so that a password is read from the environment and from nowhere else.
    """
    sweep = Sweep(directory)
    record = sweep.metadata
    if record.get("sweeper") != "optuna":
        return {}
    sweeper = record.get("hydra", {}).get("sweeper", {})
    config = OmegaConf.create({**record.get("config", {}), "hydra": {"sweeper": sweeper}})
    resolved: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    return {**resolved, "objectives": [vars(objective) for objective in sweep.objectives]}


def open_study(
    directory: Path,
    modes: Sequence[str],
    storage: str | None = None,
    pruner: Mapping[str, Any] | None = None,
) -> "AskTellStudy":
    """Opens the study of the sweep in `directory`, or creates it.

    Args:
        directory: of the sweep; the study has its name.
        modes: `min` or `max` of each objective.
        storage: a database's URL; None for a journal in `directory`.
        pruner: `_target_` and arguments of one of `optuna.pruners`; None for none.

    Raises:
        UserError: when the storage cannot be used, or holds another sweep's study of this name.
    """
    import optuna

    from lab.engine.compat.optuna import AskTellStudy

    optuna.logging.disable_default_handler()  # its log is part of ours
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened = open_storage(directory, storage)
    directions: Any = [{"min": "minimize", "max": "maximize"}[mode] for mode in modes]
    optuna.create_study(study_name=directory.name, storage=opened, directions=directions, load_if_exists=True)
    study = AskTellStudy(
        directory.name,
        opened,
        sampler=optuna.samplers.RandomSampler(),  # the sweep gives each trial one of its own
        pruner=build_pruner(OmegaConf.create(dict(pruner))) if pruner else optuna.pruners.NopPruner(),
    )
    home = study.user_attrs.get("directory")
    if home is None:
        study.set_user_attr("directory", str(directory))
    elif home != str(directory) and study.get_trials(deepcopy=False) and not any(directory.glob("[0-9]*/run.json")):
        raise UserError(f"hydra.sweeper.storage holds a study {directory.name} already, of the sweep in {home}")
    return study


class PruningClient:
    """Reports a trial's objective to its study, and tells whether the pruner ends the trial.

    Each step is reported and decided once, even if the job is killed: when it resumes from a checkpoint before its last
    report, it finds the decision in the study. Asked twice, ASHA would take the trial for one that was promoted.

    Args:
        study: with its pruner.
        number: of the trial.
    """

    def __init__(self, study: "Study", number: int) -> None:
        from lab.engine.compat.optuna import reopen_trial

        self.trial = reopen_trial(study, number)
        frozen = study.get_trials(deepcopy=False)[number]
        self.known = dict(frozen.intermediate_values)
        decided = frozen.user_attrs.get(DECIDED, {})
        self.step: int = decided.get("step", 0)  # the last one that was decided
        self.pruned: bool = decided.get("pruned", False)

    def report(self, step: int, value: float, last: bool = False) -> bool:
        """Reports a step, and tells whether the trial ends after it.

        Args:
            step: counts from 1.
            value: of the objective.
            last: whether the trial ends with this step anyway, and so is not pruned.
        """
        if step <= self.step or self.pruned:
            return self.is_over(step)
        if step not in self.known:
            self.trial.report(value, step)
            self.known[step] = value
        if not last:
            with warnings.catch_warnings():
                # Where the best trial so far has fewer steps than this one
                warnings.filterwarnings("ignore", message="WilcoxonPruner finds steps")
                self.pruned = bool(self.trial.should_prune())
        self.step = step
        self.trial.set_user_attr(DECIDED, {"step": step, "pruned": self.pruned})
        return self.pruned

    def is_over(self, step: int) -> bool:
        """Tells whether the pruner has decided that the trial ends at `step` or before."""
        return self.pruned and step >= self.step


def load_trial(run: Path) -> PruningClient | None:
    """Returns the pruning client of the job in directory `run`; None if its sweep has no pruner.

    The directory above holds its sweep, which records the storage of the study.

    Raises:
        UserError: when the study cannot be reached, or has no such trial.
    """
    sweeper = sweeper_config(run.parent) if run.name.isdigit() else {}
    if not prunes(sweeper):
        return None
    modes = [objective["mode"] for objective in sweeper["objectives"]]
    study = open_study(run.parent, modes, sweeper.get("storage"), sweeper.get("pruner"))
    if int(run.name) >= len(study.get_trials(deepcopy=False)):
        raise UserError(
            f"{run}: the study of {run.parent} has no trial {run.name}: its storage is not that of the sweep"
        )
    return PruningClient(study, int(run.name))


def mean(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Averages each metric that all of several runs have."""
    names = [name for name in metrics[0] if all(name in one for one in metrics)]
    return {name: math.fsum(one[name] for one in metrics) / len(metrics) for name in names}
