"""Judges the config of every job before a launcher composes it."""

import re
from collections.abc import Sequence

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from lab.engine.config.compose import compose
from lab.engine.config.overrides import raw_overrides
from lab.engine.config.security import JUDGED
from lab.engine.utils.redaction import user_overrides


def authorize_jobs(config: DictConfig, jobs: Sequence[Sequence[str]]) -> None:
    """Refuses a job whose `hydra` node would run code, such as by a file that it chooses.

    What changes plain values only makes the same node: of the jobs that differ so the first is composed.

    Args:
        config: of the sweep, its `hydra` node included.
        jobs: the overrides of each.

    Raises:
        UserError: for the first of them.
    """
    seen = set()
    for job in jobs:
        kind = tuple(override for override in job if not _is_plain(override))
        if kind not in seen:
            seen.add(kind)
            about_hydra = raw_overrides(config.hydra.overrides.hydra)
            name = config.hydra.job.config_name
            compose([*about_hydra, *job], hydra=True, name=name, typed=user_overrides(about_hydra))


def _is_plain(override: str) -> bool:
    """Whether an override gives a value to a key of the run's config, and neither chooses a file nor adds anything."""
    key = override.partition("=")[0]
    if not re.fullmatch(r"\w+(\.\w+)*", key) or key.partition(".")[0] in JUDGED:
        return False
    return not GlobalHydra.instance().config_loader().get_group_options(key)
