"""Sweeps over every combination of values: `python src/train.py -m model=mlp,lenet 'seed=range(5)'`."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from lab.engine.config.compose import parse
from lab.engine.config.overrides import override_key
from lab.engine.sweeps.resume import check_stored
from lab.engine.sweeps.space import params_to_overrides
from lab.engine.sweeps.sweeper import Sweeper
from lab.engine.utils.ranges import PositiveInt


class GridSweeper(Sweeper):
    """Trains every combination, in the order of the overrides.

    Args:
        params: texts with several values, by key; the command line's go before them.
        max_batch_size: jobs that a parallel launcher is given at a time; None for all.
    """

    kind = "grid"

    def __init__(self, params: Mapping[str, Any] | None = None, max_batch_size: PositiveInt | None = None) -> None:
        pass  # the arguments are read from the config, which for a resumed sweep is the recorded one

    def run(self, overrides: list[str]) -> None:
        params = params_to_overrides(self.sweeper_config["params"] or {})
        jobs = dict(enumerate(self._planned([*params, *overrides])))
        self.total = len(jobs)
        size = self.sweeper_config["max_batch_size"] or len(jobs)
        for first in range(0, len(jobs), size):
            self.launch({number: jobs[number] for number in range(first, min(first + size, len(jobs)))})

    def _planned(self, overrides: list[str]) -> list[list[str]]:
        """Returns the overrides of each job; a resumed sweep keeps the numbers of its jobs, whatever the order now."""
        parsed = parse(overrides)
        planned = self.directory.metadata.get("jobs")
        if planned is None:
            values: dict[str, list[str]] = {}
            for one in parsed:
                key, swept = one.get_key_element(), one.is_sweep_override()
                texts = one.sweep_string_iterator() if swept else [one.get_value_element_as_str()]
                values[key] = [key if one.is_delete() else f"{key}={text}" for text in texts]
            planned = [list(job) for job in product(*values.values())]
            self.directory.update(jobs=planned)
        # The directories of datasets and runs may have changed since
        moved = {o.key_or_group: o.input_line or "" for o in parsed if o.key_or_group.startswith("paths.")}
        return [[moved.get(override_key(o), o) for o in check_stored(self.directory, job)] for job in planned]
