"""The jobs of a sweep, known before the first of them is trained."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import product
from math import prod

from omegaconf import DictConfig, OmegaConf

from lab.compose import compose, options, parse
from lab.errors import UserError

JOBS = 50  # of more, so many are looked at that each value is in one of them


def jobs(words: Sequence[str]) -> Iterator[tuple[DictConfig, list[str]]]:
    """Each job of a sweep over lists of values: its config and its overrides.

    What a sweeper draws by itself, as from `interval(0, 1)`, is not known; those jobs are checked when they start.

    Args:
        words: overrides, some with several values, as they stand on the command line.
    """
    fixed, names, lists = [], [], []
    for override in parse(words):
        if not override.is_sweep_override():
            fixed.append(override.input_line or "")
        elif override.is_discrete_sweep():
            names.append((override.input_line or "").partition("=")[0])
            lists.append(list(override.sweep_string_iterator()))
            if not lists[-1]:
                raise UserError(f"{override.input_line}: nothing to sweep over")
    bases: dict[tuple[str, ...], DictConfig] = {}
    for values in _combinations(lists):
        swept = [f"{name}={value}" for name, value in zip(names, values, strict=True)]
        single = [word for word in swept if _is_single(word)]
        composed = (*fixed, *(word for word in swept if word not in single))
        if composed not in bases:  # composing takes a tenth of a second
            bases[composed] = compose(composed)
        config = deepcopy(bases[composed])
        for override in parse(single):
            OmegaConf.update(config, override.key_or_group, override.value())
        yield config, [*fixed, *swept]


def _is_single(word: str) -> bool:
    """Whether an override changes one value, and no choice of a group."""
    key = word.partition("=")[0]
    return key[0] not in "+~" and not options(key)


def _combinations(lists: list[list[str]]) -> list[tuple[str, ...]]:
    if prod(map(len, lists)) <= JOBS:
        return list(product(*lists))
    first = tuple(values[0] for values in lists)
    changed = [(*first[:i], value, *first[i + 1 :]) for i, values in enumerate(lists) for value in values[1:]]
    return [first, *changed[:JOBS]]
