"""A job in a process of its own: `python src/train.py` with the words that compose the same config there.

A job's own command line cannot be repeated: in a sweep it would start the whole sweep, and in a worker of joblib,
submitit or Ray it is the worker's.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.conf import HydraConf
from omegaconf import DictConfig

from lab.engine.config.overrides import override_key, raw_overrides, to_override
from lab.engine.utils.paths import ROOT

SCRIPT = Path(os.environ.get("LAB_SCRIPT", ROOT / "src" / "train.py"))
# Of what was given to Hydra itself: who launches jobs, how many, and where; a single job is told that anew
SWEEPS = ("hydra.mode", "hydra.launcher", "hydra.sweeper", "hydra.sweep", "hydra.run", "hydra.searchpath")


def command(hydra: DictConfig | HydraConf, overrides: Sequence[str], directory: Path) -> list[str]:
    """The command of a process that composes the config of a job.

    Args:
        hydra: the job's own or its sweep's `hydra` node.
        overrides: the words of the job.
        directory: of its run.
    """
    name = hydra.job.config_name
    flags = [] if name in (None, "train") else ["--config-name", name]
    # Folders of --config-dir and hydra.searchpath
    sources = [s for s in hydra.runtime.config_sources if s.provider.startswith(("command-line", "hydra.searchpath"))]
    places = [to_override(f"{source.schema}://{source.path}") for source in sources]
    given = [*raw_overrides(hydra.overrides.hydra), *overrides]
    words = [*([f"hydra.searchpath=[{','.join(places)}]"] if places else []), *(w for w in given if not _is_swept(w))]
    here = f"hydra.run.dir={to_override(str(directory))}"
    return [sys.executable, str(SCRIPT), *flags, *dict.fromkeys(words), "hydra.mode=RUN", here]


def _is_swept(word: str) -> bool:
    about = override_key(word).replace("/", ".")
    return any(about == name or about.startswith(f"{name}.") for name in SWEEPS)
