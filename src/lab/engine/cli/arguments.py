"""Arguments of scripts, and those that Hydra is given."""

from collections.abc import Mapping, Sequence

from lab.engine.config.overrides import to_override
from lab.engine.utils.errors import UserError
from lab.engine.utils.processes import is_rank_zero


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


def rank_arguments(words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Turns the command line of a process that takes part in another's run into Hydra's arguments.

    A rank that torchrun or srun has started beside rank 0 has the same command line, and waits for the run directory.
    """
    attach = next((word.partition("=")[2] for word in words if word.startswith("attach=")), None)
    if attach is None:
        if is_rank_zero(environ):
            return list(words)
        if {"-m", "--multirun"} & set(words):
            raise UserError("a sweep starts the ranks of its jobs by itself: leave torchrun or srun out")
        from lab.engine.distributed.rendezvous import await_run_dir  # torch loads here

        attach = str(await_run_dir())
    rank = environ.get("RANK") or environ.get("SLURM_PROCID") or "0"
    if environ.get("LOCAL_RANK", "0") != "0" and "RANK" not in environ:
        rank = environ["LOCAL_RANK"]
    directory = to_override(attach)
    return [
        f"attach={directory}",
        f"hydra.run.dir={directory}",
        "hydra.output_subdir=null",
        f"hydra.job.name=rank_{rank}",
    ]
