"""Arguments: of scripts, and what Hydra sees of those of `src/train.py`."""

import tempfile
from collections.abc import Mapping, Sequence

from lab.engine.runs.resume import resumed
from lab.engine.sweeps.resume import continue_sweep
from lab.engine.utils.errors import UserError


def parse_arguments(words: Sequence[str], defaults: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Splits a script's words into its own arguments, over their `defaults`, and overrides of the run's config."""
    own, overrides = dict(defaults), []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is no argument: write key=value, such as {next(iter(defaults))}=…")
        if name in defaults:
            own[name] = value
        else:
            overrides.append(word)
    return own, overrides


def hydra_arguments(arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Returns what Hydra sees of a command line: of a run or a sweep that goes on, what it began with."""
    found = resumed(continue_sweep(list(arguments)))
    if int(environ.get("RANK") or environ.get("SLURM_PROCID") or 0):  # no run directory of its own beside rank 0's
        found += ["hydra.output_subdir=null", f"hydra.run.dir={tempfile.mkdtemp()}"]
    return found
