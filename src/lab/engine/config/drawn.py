"""Resolves values that are drawn once per run: a random name, the time, Hydra's values of the job."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.tree import map_strings

DRAWN = re.compile(r"\$\{(unique|now|hydra):([^{}]*)\}")
RUN_DIR = "${hydra:runtime.output_dir}"  # of the process that reads the config: a run directory may be moved


def resolve_drawn(config: DictConfig, hydra: DictConfig | None = None) -> DictConfig:
    """Replaces `${unique:}`, `${now:}` and `${hydra:}` by their values, and keeps every other interpolation.

    Args:
        config: of the run; values that it has drawn already are kept, and those drawn here are known to it.
        hydra: what `${hydra:…}` looks into; without it those stay.
    """
    probe = OmegaConf.create({"value": None})
    OmegaConf.copy_cache(from_config=config, to_config=probe)

    def draw(match: re.Match[str]) -> Any:
        if match[1] == "hydra":
            return match[0] if hydra is None or match[0] == RUN_DIR else OmegaConf.select(hydra, match[2])
        probe.value = match[0]
        return probe.value

    def resolve(text: str) -> Any:
        match = DRAWN.fullmatch(text)
        return draw(match) if match else DRAWN.sub(lambda match: str(draw(match)), text)

    made = OmegaConf.create(map_strings(OmegaConf.to_container(config, resolve=False), resolve))
    for other in (config, made):
        OmegaConf.copy_cache(from_config=probe, to_config=other)
    return made


def is_drawn(value: Any) -> bool:
    """Tells whether each run draws this value anew."""
    return isinstance(value, str) and DRAWN.search(value) is not None
