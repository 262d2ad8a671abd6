"""What Optuna's own loop can do, and a study that is asked and told cannot. Takes half a second to load."""

import optuna
from optuna.samplers import BaseSampler


class AskTellStudy(optuna.Study):
    """A study that nobody runs `optimize` of.

    Public wish: `Study.stop` outside of `optimize` does nothing, and `Study.ask` takes a sampler.
    """

    def stop(self) -> None:
        """Does nothing: the samplers that go through a grid stop the loop at its end, and there is none."""

    def with_sampler(self, sampler: BaseSampler) -> "AskTellStudy":
        """The same study, drawing from `sampler`; the storage that it shares has no public name."""
        return AskTellStudy(self.study_name, self._storage, sampler=sampler, pruner=self.pruner)


def reopen_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """A trial that was asked for before, perhaps by another process, to draw, report and tell on.

    Public wish: `study.reopen(number)`. `Trial` is public, and takes an id that no public attribute tells.
    """
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
