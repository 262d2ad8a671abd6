"""What stands in `engine.compat.optuna` still does what its reasons say, and is still needed."""

import optuna
import pytest
from optuna.samplers import GridSampler, RandomSampler

from lab.engine.compat.optuna import AskTellStudy, reopen_trial


@pytest.fixture
def study() -> AskTellStudy:
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="study", storage=storage)
    return AskTellStudy("study", storage, sampler=RandomSampler(seed=0), pruner=optuna.pruners.NopPruner())


def test_a_study_outlives_its_grid(study: AskTellStudy) -> None:
    """A grid's sampler stops the study with its last point, which Optuna's own refuses outside of `optimize`."""
    study = study.with_sampler(GridSampler({"x": [1]}, seed=0))
    trial = study.ask()
    assert trial.suggest_int("x", 0, 9) == 1
    study.tell(trial, 0.0)
    with pytest.raises(RuntimeError, match="stop"):
        optuna.create_study().stop()


def test_another_sampler_draws_for_the_same_study(study: AskTellStudy) -> None:
    sampler = RandomSampler(seed=1)
    other = study.with_sampler(sampler)
    assert (other.sampler, other.pruner) == (sampler, study.pruner)
    trial = other.ask()
    study.tell(trial, 1.0)
    assert [t.value for t in study.get_trials()] == [t.value for t in other.get_trials()] == [1.0]


def test_a_trial_is_opened_again(study: AskTellStudy) -> None:
    drawn = study.ask().suggest_float("x", 0, 1)
    again = reopen_trial(study, 0)
    assert (again.number, again.suggest_float("x", 0, 1)) == (0, drawn)
    again.report(0.5, step=1)
    study.tell(again, 2.0)
    [known] = study.get_trials()
    assert (known.value, known.intermediate_values) == (2.0, {1: 0.5})
