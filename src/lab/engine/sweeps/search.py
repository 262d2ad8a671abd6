"""Runs a sweep whose values Optuna draws: asks for trials, trains them, tells their results."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lab.engine.config.compose import compose
from lab.engine.runs.run import Run
from lab.engine.sweeps.constraints import constrain, numbers, parse_constraints
from lab.engine.sweeps.device_slots import parallel_jobs
from lab.engine.sweeps.samplers import build_sampler, class_name, prunes
from lab.engine.sweeps.space import Space
from lab.engine.sweeps.storage import open_storage
from lab.engine.sweeps.study import PRUNING, PruningClient, mean, open_study
from lab.engine.sweeps.sweeper import Sweeper
from lab.engine.utils.names import nearest
from lab.engine.utils.ranges import Fraction, PositiveFloat, PositiveInt, Seed

if TYPE_CHECKING:
    from optuna import Trial  # takes half a second: imported when the first trial is asked for

log = logging.getLogger(__name__)

UNTESTED = "test=false"  # a search chooses by validation alone: its winner's test metrics would be biased


class Search(Sweeper):
    """Trains the trials that Optuna draws.

    A trial's number is the name of its job's directory. With `seeds` it has a job for each, numbered on: the jobs of
    trial 3 over 5 seeds are 15 to 19, and its metrics are their means.

    A trial stays open in the study until its jobs are finished. A resumed sweep finishes the open trials first, with
    their numbers and values.

    A trial ends in the study as COMPLETE with its metrics; as PRUNED if the pruner ended it, or if it was never trained
    because its config breaks a constraint; as FAIL if a run failed, or lacks a metric. All of them count.

    Args:
        params: keys and what is drawn for each, as on the command line.
        when: keys, and on what it depends that each is drawn.
        constraints: on a run's metrics, and on its config.
        objectives: metrics and their modes; None for the model's own.
        n_trials: drawn before the sweep ends.
        timeout: seconds after which no trial is begun.
        max_failure_rate: share of the trials that may fail before the sweep ends.
        n_jobs: trials at a time; None for one, or as many as the launcher takes.
        storage: a URL of Optuna's; None for a journal in the sweep's directory.
        seed: of the sampler.
        seeds: of runs: each trial is trained with each, and is as good as their mean.
        sampler: config of Optuna's.
        pruner: config of Optuna's.
    """

    kind = "optuna"
    retries_failed = False  # the study has learnt from them

    def __init__(
        self,
        params: Mapping[str, Any] | None = None,
        when: Mapping[str, str] | None = None,
        constraints: Sequence[str] | None = (),
        objectives: Mapping[str, str] | None = None,
        n_trials: PositiveInt = 20,
        timeout: PositiveFloat | None = None,
        max_failure_rate: Fraction = 0.5,
        n_jobs: PositiveInt | None = None,
        storage: str | None = None,
        seed: Seed = 0,
        seeds: Sequence[Seed] | None = None,
        sampler: Mapping[str, Any] | None = None,
        pruner: Mapping[str, Any] | None = None,
    ) -> None:
        pass  # the arguments are read from the config, which for a resumed sweep is the recorded one

    def sweep(self, arguments: list[str]) -> None:
        config = self.sweeper_config
        self.seeds: list[int | None] = config.get("seeds") or [None]
        self.space = Space.parse(self.overrides, config["params"], config["when"])
        self.constraints = parse_constraints(config["constraints"] or [])
        self.extra_overrides = [UNTESTED, *([PRUNING] if prunes(config) else [])]
        if config["storage"] is not None:
            open_storage(self.directory.dir, config["storage"])  # known to be there before anything is made
        super().sweep(arguments)

    def run(self, overrides: list[str]) -> None:
        config = self.sweeper_config
        self.objectives = self.directory.objectives
        modes = [objective.mode for objective in self.objectives]
        self.study = open_study(self.directory.dir, modes, config["storage"], config["pruner"])
        self._warn_of_lost_directories()
        wanted = config["n_trials"]
        if class_name(config["sampler"]) == "GridSampler":
            wanted = min(wanted, math.prod(len(values) for values in self.space.grid().values()))
        self.total = wanted * len(self.seeds)
        at_a_time = config["n_jobs"] or parallel_jobs(self.launcher, self.config.hydra.launcher)
        over = math.inf if config["timeout"] is None else time.monotonic() + config["timeout"]
        if 1 < wanted <= at_a_time:
            log.info("all %d trials at once, none learns from another: hydra.sweeper.n_jobs=… for fewer", wanted)
        failures = self._count_failures()
        while trials := self._next(wanted, at_a_time, timed_out=time.monotonic() >= over):
            failures += self._train(trials)
            if failures > config["max_failure_rate"] * wanted:
                rate = f"max_failure_rate={config['max_failure_rate']}"
                log.error("%d of %d trials failed, more than hydra.sweeper.%s: the sweep ends", failures, wanted, rate)
                return
        if time.monotonic() >= over:
            log.info("hydra.sweeper.timeout=%s: no more trials", config["timeout"])

    def _count_failures(self) -> int:
        """Counts the trials that failed before the sweep was resumed, and adds them to `failures`."""
        failed = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name == "FAIL"]
        for trial in failed:
            *_, number = str(trial.user_attrs.get("directory") or trial.number).split()
            self.failures[int(number)] = trial.user_attrs.get("cause", "")
        return len(failed)

    def _next(self, wanted: int, at_a_time: int, timed_out: bool) -> "dict[Trial, list[str]]":
        """Returns the trials to train now, with the overrides of each: first those begun before, then new ones."""
        from optuna.trial import TrialState

        from lab.engine.compat.optuna import reopen_trial

        known = self.study.get_trials(deepcopy=False)
        begun = [trial for trial in known if trial.state == TrialState.RUNNING][:at_a_time]
        finished = sum(trial.state.is_finished() for trial in known)
        fresh = 0 if timed_out else min(at_a_time, wanted - finished) - len(begun)
        trials: dict[Trial, list[str]] = {}
        for number in [*(trial.number for trial in begun), *range(len(known), len(known) + fresh)]:
            sampler = build_sampler(self.config.hydra.sweeper.sampler, self.space, number)
            study = self.study.with_sampler(sampler)
            trial = reopen_trial(study, number) if number < len(known) else study.ask()
            trials[trial] = [*self.space.fixed, *self.space.suggest(trial)]
        return trials

    def _train(self, trials: "Mapping[Trial, list[str]]") -> int:
        """Trains trials and tells the study how they ended, seed by seed.

        Returns:
            How many of them failed.
        """
        left = {trial: overrides for trial, overrides in trials.items() if not self._is_ruled_out(trial, overrides)}
        metrics: dict[Trial, list[dict[str, float]]] = {trial: [] for trial in left}
        failures = 0
        for step, seed in enumerate(self.seeds):
            seeded = [] if seed is None else [f"seed={seed}"]
            jobs = {trial: trial.number * len(self.seeds) + step for trial in left}
            self.launch({number: [*left[trial], *seeded] for trial, number in jobs.items()})
            for trial, number in jobs.items():
                run = self.directory.job(number)
                if number not in self.failures and (fault := self._find_fault(run)):
                    self.failures[number] = fault
                if number in self.failures:
                    failures += 1
                    trial.set_user_attr("cause", self.failures[number])
                    self._tell(trial, "FAIL", metrics[trial])
                elif run.status == "pruned":
                    self._tell(trial, "PRUNED", [run.metrics])
                else:
                    metrics[trial].append(run.metrics)
                    if step + 1 == len(self.seeds):
                        self._tell(trial, "COMPLETE", metrics[trial])
                    elif self._is_hopeless(trial, metrics[trial]):
                        log.info("trial %d is pruned after %d of %d seeds", trial.number, step + 1, len(self.seeds))
                        self._tell(trial, "PRUNED", metrics[trial])
                    else:
                        continue
                del left[trial]
        return failures

    def _find_fault(self, run: Run) -> str | None:
        """Returns why a finished run counts as failed, such as a missing objective; None if it does not."""
        metrics, completed = run.metrics, run.status == "completed"
        for metric in [objective.metric for objective in self.objectives]:
            if metric not in metrics and completed:
                return f"completed without {metric}, which the sweep is about: it has {', '.join(metrics)}"
            if not math.isfinite(metrics.get(metric, 0.0)):
                return f"{run.status} with {metric}={metrics[metric]}"
        for constraint in self.constraints:
            if not constraint.is_early and constraint.name not in metrics and completed:
                return f"{constraint.text}: the run has no {constraint.name}{nearest(constraint.name, metrics)}"
        return None

    def _is_ruled_out(self, trial: "Trial", overrides: Sequence[str]) -> bool:
        """Tells whether a trial's config breaks a constraint; ends such a trial in the study, untrained."""
        early = [constraint for constraint in self.constraints if constraint.is_early]
        broken = constrain(trial, early, numbers(compose(overrides))) if early else []
        if broken:
            log.info("trial %d is not trained: it breaks %s", trial.number, " and ".join(broken))
            self._tell(trial, "PRUNED", [])
        return bool(broken)

    def _is_hopeless(self, trial: "Trial", metrics: Sequence[Mapping[str, float]]) -> bool:
        """Tells whether the pruner ends a trial before its next seed.

        Wilcoxon's test takes the metric of each seed; the other pruners take its mean over the seeds so far.
        """
        pruner = self.sweeper_config["pruner"]
        if len(self.objectives) > 1 or not pruner:
            return False
        known = metrics[-1:] if class_name(pruner) == "WilcoxonPruner" else metrics
        return PruningClient(self.study, trial.number).report(len(metrics), mean(known)[self.objectives[0].metric])

    def _tell(self, trial: "Trial", state: str, metrics: Sequence[Mapping[str, float]]) -> None:
        """Ends a trial in the study with this state, and records its metrics."""
        from optuna.trial import TrialState

        jobs = range(trial.number * len(self.seeds), (trial.number + 1) * len(self.seeds))
        trial.set_user_attr("directory", " ".join(str(n) for n in jobs if self.directory.job(n).metadata))
        found = mean(metrics) if metrics else {}
        if found:
            trial.set_user_attr("metrics", found)
            constrain(trial, [c for c in self.constraints if not c.is_early and c.name in found], found)
        values = [found[objective.metric] for objective in self.objectives] if state == "COMPLETE" else None
        self.study.tell(trial, values, state=TrialState[state])

    def _warn_of_lost_directories(self) -> None:
        """Warns of trials that are finished in the study and whose directories are gone: they are not trained again."""
        lost = [
            str(trial.number)
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state.is_finished()
            and not all(self.directory.job(int(n)).metadata for n in trial.user_attrs.get("directory", "").split())
        ]
        if lost:
            log.warning("finished in the study, but gone from %s: trial %s", self.directory.dir, ", ".join(lost))
