"""The jobs of a sweep, known before the first of them is trained."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import product
from math import prod

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.compose import compose, leaves, options, parse
from lab.engine.config.composition_errors import UnknownKey
from lab.engine.sweeps.space import Space
from lab.engine.utils.errors import UserError
from lab.engine.utils.names import nearest
from lab.engine.utils.redaction import user_overrides

JOBS = 50  # of more, so many are looked at that each value is in one of them


def jobs(space: Space, base: DictConfig | None = None) -> Iterator[tuple[DictConfig, list[str]]]:
    """The jobs of a sweep: the config and the overrides of each.

    Of an interval the two ends are looked at: what lies between them fits where both do.

    Args:
        space: what varies.
        base: what stays, where it is composed already.

    Raises:
        UserError: when one of them has no such key.
    """
    bases: dict[tuple[str, ...], DictConfig] = {} if base is None else {(): base}
    for drawn in combinations(space):
        words = {key: f"{space.parameters[key].word}={text}" for key, text in drawn.items()}
        single = [key for key in words if is_single(words[key])]
        chosen = tuple(words[key] for key in words if key not in single)
        if chosen not in bases:  # composing takes a tenth of a second
            bases[chosen] = _compose(space, chosen)
        base = bases[chosen]
        config = deepcopy(base)
        for key in single:
            value = parse([words[key]])[0].value()
            _check_known(key, base, chosen)
            OmegaConf.update(config, key, value)
        yield config, [*space.fixed, *words.values()]


def is_single(word: str) -> bool:
    """Whether an override changes one value, and no choice of a group."""
    key = word.partition("=")[0]
    return key[0] not in "+~" and not options(key)


def combinations(space: Space) -> Iterator[dict[str, str]]:
    """Texts by key of what may be drawn together, the last key's values first."""
    samples = {key: parameter.samples(JOBS) for key, parameter in space.parameters.items()}
    if prod(map(len, samples.values())) <= JOBS:
        wanted = [dict(zip(samples, texts, strict=True)) for texts in product(*samples.values())]
    else:
        changed = [(key, text) for key, texts in samples.items() for text in texts[1:][:JOBS]]
        wanted = [{}, *({key: text} for key, text in changed)]
        # What hangs on another choice than the first
        wanted += [{key: samples[key][0]} for key in space.conditions]
        wanted = [one | _needs(space, next(iter(one), None)) for one in wanted]
    seen = set()
    for one in wanted:
        drawn: dict[str, str] = {}
        for key, texts in samples.items():
            if space.draws(key, drawn):
                drawn[key] = one.get(key, texts[0])
        if (found := tuple(drawn.items())) not in seen:
            seen.add(found)
            yield drawn


def _needs(space: Space, key: str | None) -> dict[str, str]:
    """What must be drawn for `key` to be drawn."""
    needed = {}
    while key in space.conditions:
        condition = space.conditions[key]
        needed[condition.key] = condition.texts[0]
        key = condition.key
    return needed


def _compose(space: Space, words: tuple[str, ...]) -> DictConfig:
    try:
        return compose([*space.fixed, *words], typed=user_overrides())
    except UnknownKey as error:
        if not words:
            raise
        raise UserError(f"{error.key}: no such key with {' '.join(words)}") from error


def _check_known(key: str, base: DictConfig, words: tuple[str, ...]) -> None:
    """Refuses a key that the config which the choices of groups make does not have."""
    known = dict(leaves(base))
    if key in known:
        return
    chosen = next((word for word in words if key.startswith(f"{word.partition('=')[0]}.")), None)
    if chosen is None:
        raise UserError(f"{key}: no such key{nearest(key, known)}\n`python src/train.py --cfg job` shows every key")
    when = f"'hydra.sweeper.when={{{key}: \"{chosen.partition('=')[0]}=…\"}}'"
    raise UserError(
        f"{key}: no such key with {chosen}{nearest(key, known)}\n"
        f"hydra/sweeper=optuna draws a key only where you say: {when}"
    )
