"""Every combination of values: `python src/train.py -m model=mlp,lenet 'seed=range(5)'`."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig

from lab.engine.config.compose import parse
from lab.engine.sweeps.space import written
from lab.engine.sweeps.sweeper import Job, Sweeper


class GridSweeper(Sweeper):
    """Trains every combination, in the order of the words.

    Args:
        params: texts with several values, by key; the command line's go before them.
        max_batch_size: jobs that a parallel launcher is given at a time; None for all.
    """

    kind = "grid"

    def __init__(self, params: DictConfig | None = None, max_batch_size: int | None = None) -> None:
        self.params: dict[str, Any] = {str(key): text for key, text in (params or {}).items()}
        self.max_batch_size = max_batch_size

    def run(self, words: list[str]) -> None:
        jobs = [Job(number, overrides) for number, overrides in enumerate(self._planned(words))]
        self.total = len(jobs)
        size = self.max_batch_size or len(jobs)
        for first in range(0, len(jobs), size):
            self.launch(jobs[first : first + size])

    def _planned(self, words: list[str]) -> list[list[str]]:
        """The overrides of each job: a sweep that goes on keeps to its numbers, whatever the order of the words is now,
        and however they are shuffled.
        """
        overrides = parse([*written(self.params), *words])
        planned = self.directory.record.get("jobs")
        if planned is None:
            [planned] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
            self.directory.note(jobs=planned)
        # Where datasets and runs are may have changed since
        places = [o for o in overrides if o.key_or_group.startswith("paths.") and not o.is_sweep_override()]
        moved = {o.key_or_group: o.input_line or "" for o in places}
        return [[moved.get(word.partition("=")[0], word) for word in job] for job in planned]
