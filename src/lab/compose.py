"""Composing configs outside of Hydra's own main, and looking into what comes out."""

import math
import secrets
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[2]  # the checkout
CONFIGS = ROOT / "configs"

OmegaConf.register_new_resolver("root", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(4), use_cache=True, replace=True)


def _table(path: str, target: str, task: str, drop: Sequence[str]) -> DictConfig:
    """The `dims` of a CSV file."""
    from lab.data.files import facts  # polars: only where a file is asked for

    # A node of its own, since `${dims.features}` looks into nodes only
    return OmegaConf.create(facts(str(path), str(target), task, [str(name) for name in drop]))


OmegaConf.register_new_resolver("table", _table, replace=True)


def compose(overrides: Sequence[str], hydra: bool = False) -> DictConfig:
    """The whole config that `overrides` make; on demand with Hydra's own part."""
    if GlobalHydra.instance().is_initialized():
        return hydra_compose("train", list(overrides), return_hydra_config=hydra)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose("train", list(overrides), return_hydra_config=hydra)


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them; `glob(*)` over a group's choices where Hydra runs."""
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None
    return OverridesParser.create(loader).parse_overrides(list(overrides))


def options(group: str) -> list[str]:
    """The choices of a config group, none where `group` is no group."""
    return [path.stem for path in sorted((CONFIGS / group).glob("*.yaml"))]


def get(config: DictConfig, key: str) -> Any:
    """The value at `key`; None where there is none, or where it hangs on a run that has not begun."""
    return OmegaConf.select(config, key, throw_on_missing=False, throw_on_resolution_failure=False)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below `node`, dotted, with its value; inner nodes too."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=False)
    for name, value in node.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for the known word that `word` looks like, or nothing."""
    match = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""
