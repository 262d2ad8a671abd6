"""A sweep whose values Optuna draws: ask for trials, train them, tell how they came out, until there are enough."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lab.engine.config.compose import compose
from lab.engine.sweeps.constraints import constrain, numbers, parse_constraints
from lab.engine.sweeps.parallel_jobs import parallel_jobs
from lab.engine.sweeps.pruners import PRUNING, check_pruner, is_wilcoxon, prunes
from lab.engine.sweeps.samplers import build_sampler
from lab.engine.sweeps.space import Space
from lab.engine.sweeps.storage import check_reachable
from lab.engine.sweeps.study import Referee, mean, open_study
from lab.engine.sweeps.sweeper import Job, Outcome, Sweeper
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest
from lab.engine.utils.ranges import Fraction, PositiveFloat, PositiveInt, Seed

if TYPE_CHECKING:
    from optuna import Trial  # takes half a second: imported when the first trial is asked for

log = logging.getLogger(__name__)


class Search(Sweeper):
    """Trains what Optuna asks for.

    A trial's number is the name of its job's directory. With `seeds` it has a job for each, numbered on: the jobs of
    trial 3 over 5 seeds are 15 to 19, and its figures are their means.

    A trial stays open in the study until its jobs are over, whatever happens meanwhile. A sweep that goes on takes up
    those first, under their numbers, with what was drawn for them.

    How trials end in the study: COMPLETE with its figures; PRUNED where the pruner ended it, and where it was never
    trained since its config breaks a constraint; FAIL where a run failed, or has no such figure. All of them count.

    Args:
        params: keys and what is drawn for each, as on the command line.
        when: keys, and on what it hangs that each is drawn.
        constraints: of a run's figures, and of what is drawn.
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
    tries_again = False  # the study has learnt from them

    settings: dict[str, Any]

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
        pass  # they are read from the config, which for a sweep that goes on is what it recorded

    def objectives(self) -> list[dict[str, str]]:
        given = self.settings.get("objectives") or {}
        return [{"metric": str(metric), "mode": str(mode)} for metric, mode in given.items()]

    def sweep(self, arguments: list[str]) -> None:
        """Before anything is made, the storage is known to be there, and the pruner to have something to prune."""
        node: Any = OmegaConf.to_container(self.config.hydra.sweeper, resolve=True)
        self.settings = node
        self.seeds: list[int | None] = node.get("seeds") or [None]
        if not self.objectives() and not self.config.objective:
            raise UserError(
                "nothing to search for: give 'hydra.sweeper.objectives={METRIC: min}', or the model an objective"
            )
        objectives = self.objectives() or [{"metric": str(self.config.objective.metric)}]
        check_pruner(node.get("pruner"), node.get("seeds"), [one["metric"] for one in objectives])
        self.space = Space.parse(self.overrides, node["params"] or {}, node["when"] or {})
        if node.get("seeds") and "seed" in self.space.parameters:
            raise UserError("hydra.sweeper.seeds trains each trial with every seed: leave out seed=")
        check_reachable(node["storage"])
        self.told = [PRUNING] if prunes(node) else []
        super().sweep(arguments)

    def run(self, overrides: list[str]) -> None:
        given = self.settings
        self.constraints = parse_constraints(given["constraints"] or [])
        modes = [objective.mode for objective in self.directory.objectives]
        self.study = open_study(self.directory.dir, modes, given["storage"], given["pruner"])
        self._tell_of_lost_directories()
        wanted = given["n_trials"]
        if str(given["sampler"]["_target_"]).endswith(".GridSampler"):
            wanted = min(wanted, math.prod(len(values) for values in self.space.grid().values()))
        self.total = wanted * len(self.seeds)
        at_a_time = given["n_jobs"] or parallel_jobs(self.launcher, self.config.hydra.launcher)
        over = math.inf if given["timeout"] is None else time.monotonic() + given["timeout"]
        if 1 < wanted <= at_a_time:
            log.info("all %d trials at once, none learns from another: hydra.sweeper.n_jobs=… for fewer", wanted)
        failures = self._count_failures()
        while trials := self._next(wanted, at_a_time, timed_out=time.monotonic() >= over):
            failures += self._train(trials)
            if failures > given["max_failure_rate"] * wanted:
                rate = f"max_failure_rate={given['max_failure_rate']}"
                log.error("%d of %d trials failed, more than hydra.sweeper.%s: the sweep ends", failures, wanted, rate)
                return
        if time.monotonic() >= over:
            log.info("hydra.sweeper.timeout=%s: no more trials", given["timeout"])

    def _count_failures(self) -> int:
        """The trials that have failed before the sweep went on, which are told of at the end as well."""
        failed = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name == "FAIL"]
        for trial in failed:
            *_, number = str(trial.user_attrs.get("directory") or trial.number).split()
            self.outcomes[int(number)] = Outcome(int(number), "failed", cause=trial.user_attrs.get("cause"))
        return len(failed)

    def _next(self, wanted: int, at_a_time: int, timed_out: bool) -> "dict[Trial, list[str]]":
        """Trials to train now, with the overrides of each: those that were begun before, and then new ones."""
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
        left = {trial: words for trial, words in trials.items() if not self._is_ruled_out(trial, words)}
        figures: dict[Trial, list[dict[str, float]]] = {trial: [] for trial in left}
        failures = 0
        for step, seed in enumerate(self.seeds, start=1):
            jobs = [self._job(trial, words, step - 1, seed) for trial, words in left.items()]
            outcomes = self.launch(jobs) if jobs else []
            for trial, outcome in zip(list(left), outcomes, strict=True):
                cause = outcome.cause if outcome.status == "failed" else self._lack(outcome)
                if cause is not None:
                    failures += 1
                    trial.set_user_attr("cause", cause)
                    self.outcomes[outcome.number] = replace(outcome, status="failed", cause=cause)
                    self._tell(trial, "FAIL", figures[trial])
                elif outcome.status == "pruned":
                    self._tell(trial, "PRUNED", [outcome.metrics])
                else:
                    figures[trial].append(outcome.metrics)
                    if step == len(self.seeds):
                        self._tell(trial, "COMPLETE", figures[trial])
                    elif self._is_hopeless(trial, figures[trial]):
                        log.info("trial %d is pruned after %d of %d seeds", trial.number, step, len(self.seeds))
                        self._tell(trial, "PRUNED", figures[trial])
                    else:
                        continue
                del left[trial]
        return failures

    def _job(self, trial: "Trial", words: Sequence[str], index: int, seed: int | None) -> Job:
        return Job(trial.number * len(self.seeds) + index, [*words, *([] if seed is None else [f"seed={seed}"])])

    def _lack(self, outcome: Outcome) -> str | None:
        """What a finished run does not have, in words."""
        figures, whole = outcome.metrics, outcome.status == "completed"
        for metric in [objective.metric for objective in self.directory.objectives]:
            if metric not in figures and whole:
                return f"completed without {metric}, which the sweep is about: it has {', '.join(figures)}"
            if not math.isfinite(figures.get(metric, 0.0)):
                return f"{outcome.status} with {metric}={figures[metric]}"
        for constraint in self.constraints:
            if not constraint.is_early and constraint.name not in figures and whole:
                return f"{constraint.text}: the run has no {constraint.name}{nearest(constraint.name, figures)}"
        return None

    def _is_ruled_out(self, trial: "Trial", words: Sequence[str]) -> bool:
        """Tells the study of a trial whose config breaks a constraint, which nobody has to train to know."""
        early = [constraint for constraint in self.constraints if constraint.is_early]
        broken = constrain(trial, early, numbers(compose(words))) if early else []
        if broken:
            log.info("trial %d is not trained: it breaks %s", trial.number, " and ".join(broken))
            self._tell(trial, "PRUNED", [])
        return bool(broken)

    def _is_hopeless(self, trial: "Trial", figures: Sequence[Mapping[str, float]]) -> bool:
        """Whether a trial is to end before its next seed.

        Wilcoxon's test is about each seed's own figure; the other pruners are about a figure that gets better known.
        """
        metric = self.directory.objectives[0].metric
        if len(self.directory.objectives) > 1 or not self.settings["pruner"]:
            return False
        known = figures[-1:] if is_wilcoxon(self.settings["pruner"]) else figures
        return Referee(self.study, trial.number).report(len(figures), mean(known)[metric])

    def _tell(self, trial: "Trial", state: str, figures: Sequence[Mapping[str, float]]) -> None:
        """Ends a trial in the study, with what is known of it."""
        from optuna.trial import TrialState

        numbers_of = range(trial.number * len(self.seeds), (trial.number + 1) * len(self.seeds))
        trial.set_user_attr("directory", " ".join(str(n) for n in numbers_of if self.directory.job(n).record))
        found = mean(figures) if figures else {}
        if found:
            trial.set_user_attr("metrics", found)
            constrain(trial, [c for c in self.constraints if not c.is_early and c.name in found], found)
        values = [found[objective.metric] for objective in self.directory.objectives] if state == "COMPLETE" else None
        self.study.tell(trial, values, state=TrialState[state])

    def _tell_of_lost_directories(self) -> None:
        """A trial that the study has finished, and whose directory is gone, is not trained again."""
        lost = [
            trial.number
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state.is_finished() and trial.user_attrs.get("directory")
            for number in str(trial.user_attrs["directory"]).split()
            if not self.directory.job(int(number)).record
        ]
        if lost:
            told = ", ".join(str(number) for number in dict.fromkeys(lost))
            log.warning("finished in the study, but gone from %s: trial %s", self.directory.dir, told)
