"""Values that are drawn once per run: a random name, the time, what Hydra knows of the job."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

DRAWN = re.compile(r"\$\{(unique|now|hydra):([^{}]*)\}")
RUN_DIR = "${hydra:runtime.output_dir}"  # of whoever reads the config: a run directory may be moved


def resolve_drawn(config: DictConfig, hydra: DictConfig | None = None) -> DictConfig:
    """Replaces `${unique:}`, `${now:}` and `${hydra:}` by their values; every other interpolation stays.

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

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: resolve(value) for key, value in node.items()}
        if isinstance(node, list):
            return [resolve(value) for value in node]
        if not isinstance(node, str):
            return node
        whole = DRAWN.fullmatch(node)
        return draw(whole) if whole else DRAWN.sub(lambda match: str(draw(match)), node)

    made = OmegaConf.create(resolve(OmegaConf.to_container(config, resolve=False)))
    for other in (config, made):
        OmegaConf.copy_cache(from_config=probe, to_config=other)
    return made


def is_drawn(value: Any) -> bool:
    """Whether a run draws this value anew."""
    return isinstance(value, str) and DRAWN.search(value) is not None
