"""Every combination of values: `python src/train.py -m model=mlp,lenet 'seed=range(5)'`."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig

from lab.compose import parse
from lab.sweeps.space import written
from lab.sweeps.sweeper import Job, Sweeper


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
        overrides = parse([*written(self.params), *words])
        [combinations] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        jobs = [Job(number, list(combination)) for number, combination in enumerate(combinations)]
        self.total = len(jobs)
        size = self.max_batch_size or len(jobs)
        for first in range(0, len(jobs), size):
            self.launch(jobs[first : first + size])
