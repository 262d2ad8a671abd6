"""Composes the configs of a sweep's jobs before the first is trained, to check them."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import product
from math import prod

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from lab.engine.config.compose import compose, leaves, options, parse
from lab.engine.config.composition_errors import UnknownKey
from lab.engine.config.overrides import override_key, raw_overrides
from lab.engine.config.security import CHECKED_GROUPS
from lab.engine.sweeps.space import Space
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest
from lab.engine.utils.redaction import command_line

JOBS = 50  # of more combinations, only enough are composed that each value occurs


def compose_jobs(space: Space, base: DictConfig | None = None) -> Iterator[tuple[DictConfig, list[str]]]:
    """Yields the config and the overrides of each job of a sweep, or of a sample if there are many.

    Of an interval only the two ends are composed: if both are valid, so is what lies between.

    Args:
        space: what varies.
        base: what stays, where it is composed already.

    Raises:
        UserError: when one of them has no such key.
    """
    bases: dict[tuple[str, ...], DictConfig] = {} if base is None else {(): base}
    for drawn in combinations(space):
        overrides = space.to_overrides(drawn)
        choices = tuple(override for override in overrides if not _is_plain(override))
        with named_job(space, overrides):
            if choices not in bases:  # composing takes a tenth of a second
                bases[choices] = _compose(space, choices)
            config = deepcopy(bases[choices])
            for override in parse([override for override in overrides if override not in choices]):
                _check_known(override.key_or_group, bases[choices], choices)
                OmegaConf.update(config, override.key_or_group, override.value())
        yield config, [*space.fixed, *overrides]


@contextmanager
def named_job(space: Space, job: Sequence[str]) -> Iterator[None]:
    """Adds to an error the overrides of the job that it is about, or how to write an interval of integers."""
    try:
        yield
    except UserError as error:
        for key, parameter in space.parameters.items():
            if str(error).startswith(f"{key}=") and parameter.is_interval and "whole number" in str(error):
                raise UserError(f"{error}\nwrite {key}=int({parameter.text})") from error
        drawn = [override for override in job if override not in space.fixed]
        if all(override in str(error) for override in drawn):
            raise
        raise UserError(f"{error}\nin the job {' '.join(drawn)}") from error


def authorize_jobs(config: DictConfig, jobs: Collection[Sequence[str]]) -> None:
    """Refuses jobs whose `hydra` node would run code, for example by a file that they choose, before their launch.

    Jobs that differ in plain values only have the same node: the first of them is composed.

    Args:
        config: of the sweep, its `hydra` node included.
        jobs: the overrides of each.

    Raises:
        UserError: for the first of them.
    """
    about_hydra = raw_overrides(config.hydra.overrides.hydra)
    seen = set()
    for job in jobs:
        kind = tuple(o for o in job if not _is_plain(o) or o.partition(".")[0].partition("=")[0] in CHECKED_GROUPS)
        if kind not in seen:
            seen.add(kind)
            name = config.hydra.job.config_name
            compose([*about_hydra, *job], hydra=True, name=name, trusted=command_line(about_hydra))


def combinations(space: Space) -> Iterator[dict[str, str]]:
    """Yields combinations of values that may be drawn together, as texts by key; the last key varies fastest."""
    samples = {key: parameter.samples(JOBS) for key, parameter in space.parameters.items()}
    if prod(map(len, samples.values())) <= JOBS:
        wanted = [dict(zip(samples, texts, strict=True)) for texts in product(*samples.values())]
    else:
        changed = [(key, text) for key, texts in samples.items() for text in texts[1:][:JOBS]]
        # And the first value of each key that depends on another choice than the first
        changed += [(key, samples[key][0]) for key in space.conditions]
        wanted = [{}, *({key: text} | _needs(space, key) for key, text in changed)]
    seen = set()
    for one in wanted:
        drawn: dict[str, str] = {}
        for key, texts in samples.items():
            if space.draws(key, drawn):
                drawn[key] = one.get(key, texts[0])
        if (found := tuple(drawn.items())) not in seen:
            seen.add(found)
            yield drawn


def _needs(space: Space, key: str) -> dict[str, str]:
    """Returns the values of other keys that make `key` be drawn."""
    needed = {}
    while key in space.conditions:
        condition = space.conditions[key]
        needed[condition.key] = condition.texts[0]
        key = condition.key
    return needed


def _is_plain(override: str) -> bool:
    """Tells whether an override only sets a value: it chooses no file, and adds or deletes no key."""
    key, hydra = override.partition("=")[0], GlobalHydra.instance()
    group = hydra.config_loader().get_group_options(key) if hydra.is_initialized() else options(key)
    return not group and re.fullmatch(r"\w+(\.\w+)*", key) is not None


def _compose(space: Space, choices: tuple[str, ...]) -> DictConfig:
    try:
        return compose([*space.fixed, *choices], trusted=command_line())
    except UnknownKey as error:
        if not choices:
            raise
        raise UserError(f"{error.key}: no such key with {' '.join(choices)}") from error


def _check_known(key: str, base: DictConfig, choices: tuple[str, ...]) -> None:
    """Refuses a key that `base`, the config with the choices of groups, does not have."""
    known = dict(leaves(base))
    if key in known:
        return
    chosen = next((choice for choice in choices if key.startswith(f"{override_key(choice)}.")), None)
    unknown = UnknownKey(key, known)
    if chosen is None or unknown.is_argument:
        raise unknown
    when = f"'hydra.sweeper.when={{{key}: \"{override_key(chosen)}=…\"}}'"
    raise UserError(
        f"{key}: no such key with {chosen}{nearest(key, known)}\n"
        f"hydra/sweeper=optuna draws a key only where you say: {when}"
    )
