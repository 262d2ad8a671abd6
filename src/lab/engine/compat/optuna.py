"""Adds to ask-and-tell studies what only Optuna's own loop can do. Takes half a second to load."""

import optuna
from optuna.samplers import BaseSampler


class AskTellStudy(optuna.Study):
    """Adds to a study what asking and telling without `optimize` lacks: `stop`, and a sampler for each trial.

    Public wish: `Study.stop` does nothing outside of `optimize`, and `Study.ask` takes a sampler.
    """

    def stop(self) -> None:
        """Does nothing: grid samplers stop the loop of `optimize` at their end, and there is none."""

    def with_sampler(self, sampler: BaseSampler) -> "AskTellStudy":
        """Returns the same study with another sampler; the storage that they share has no public name."""
        return AskTellStudy(self.study_name, self._storage, sampler=sampler, pruner=self.pruner)


def reopen_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """Returns a trial that was asked for before, perhaps by another process, to suggest, report and tell on.

    Public wish: `study.reopen(number)`. `Trial` is public, but takes an id that no public attribute holds.
    """
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
