"""Translates the arguments of `src/train.py` into those that Hydra sees.

The content of a run's or a sweep's directory is untrusted and never becomes an argument. Of a run only its path is
passed on, of a sweep the names of its sweeper and of its launcher, if they are known ones.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.engine.cli.flags import parse_flags
from lab.engine.config.compose import find_log_dir, options, parse, with_search_path
from lab.engine.config.locations import absolute_override
from lab.engine.config.overrides import is_hydras, last_value, override_key, to_override
from lab.engine.runs.run import FINISHED, Run
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.arguments import check_utf8
from lab.engine.utils.errors import UserError
from lab.engine.utils.files import check_file, undamaged
from lab.engine.utils.formats import check_format
from lab.engine.utils.paths import CONFIGS
from lab.engine.utils.processes import global_rank, scheduled_jobs
from lab.engine.utils.redaction import redact

MULTIRUN = ("-m", "--multirun")
UNFINISHED = ("running", "preempted", "failed")
SWEEPERS = ("grid", "optuna")  # names that a `sweep.json` may hold


def hydra_arguments(arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Returns the arguments that Hydra sees; reads directories and changes nothing.

    Args:
        arguments: of `src/train.py`.
        environ: environment variables, which hold the rank, and the jobs of Slurm and torchrun with their restarts.

    Raises:
        UserError: when there is no such run or sweep, or the other arguments do not fit it.
    """
    check_utf8(arguments)
    typed, arguments = arguments, [*map(absolute_override, arguments)]
    if directory := last_value(arguments, "attach"):
        return _attached(directory, arguments)
    if global_rank(environ):
        return _attached(_directory_of_rank_zero(arguments), ["attach"])
    if sweep := last_value(arguments, "sweep.resume"):
        return _resumed_sweep(sweep, arguments)
    run = last_value(arguments, "resume")
    rest = [argument for argument in arguments if override_key(argument) != "resume"]
    if {*MULTIRUN} & {*rest}:
        if run is not None:
            raise UserError(f"resume={run} resumes one run: leave out -m")
        return _find_weights(rest)
    if (begun := _begun_before(typed, environ)) is not None:
        rest = [argument for argument in rest if override_key(argument) != "hydra.run.dir"]
        run, rest = "auto", [*rest, f"hydra.run.dir={to_override(str(begun))}"]
    if run == "auto":
        directory = last_value(rest, "hydra.run.dir")
        run = _resumable(directory)
        if run is not None:  # by the command that began it: what was the latest run then, it has in its config
            rest = [argument for argument in rest if argument not in ("weights=latest", "weights.path=latest")]
        elif directory is not None and _has_begun(Run(Path(directory))):
            rest.append("resume=auto")  # it has ended; or it was stopped before its first checkpoint, and begins anew
    rest = _find_weights(rest)
    return rest if run is None else _resumed_run(run, rest)


def _find_weights(arguments: Sequence[str]) -> list[str]:
    """Replaces `weights=RUN`, short for `weights.path=RUN`, by the file that is meant: of a run its best checkpoint.

    It is found before the run begins, which is the latest one from then on. Several values are a sweep's.
    """

    def find(value: Any) -> str:
        if not isinstance(value, str | int) or "${" in str(value):
            return to_override(value)
        path = Path(str(value))
        if value == "latest" or path.is_dir() or not path.suffix:
            log_dir = _log_dir(arguments) if value == "latest" else None
            path = Run.open(path, log_dir, argument="weights").dir / "checkpoints" / "best.ckpt"
        check_file(path, "weights")
        return to_override(str(path.resolve()))

    found = []
    for argument in arguments:
        if argument.startswith(("weights=", "weights.path=")):
            override = parse([argument])[0]
            value = override.value()
            if override.is_choice_sweep():
                values = [parse([f"weights={text}"])[0].value() for text in override.sweep_string_iterator()]
                argument = f"weights.path={','.join(map(find, values))}"
            elif not (override.is_sweep_override() or isinstance(value, dict)):
                argument = f"weights.path={find(value)}"
        found.append(argument)
    return found


def _attached(directory: str, arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a process that joins the run in `directory`: a rank, or a job of gpu_pool."""
    if len(arguments) > 1:
        other = next((a for a in arguments if override_key(a) != "attach"), arguments[-1])
        raise UserError(f"attach={directory} takes no other argument: leave out {other}")
    return [f"attach={to_override(str(Run.open(directory, argument='attach').dir))}", *_run_dir(directory)]


def _directory_of_rank_zero(arguments: Sequence[str]) -> str:
    """Waits for the run directory of rank 0, in a rank that torchrun or srun started with the same arguments."""
    if {*MULTIRUN} & {*arguments}:
        raise UserError("a sweep starts the ranks of its jobs itself: leave out torchrun or srun")
    from lab.engine.distributed.rendezvous import await_run_dir  # torch loads here

    return str(await_run_dir())


def _run_dir(directory: str | Path) -> list[str]:
    """Returns the arguments that make Hydra use an existing run directory, whose `.hydra` stays as it is."""
    return [f"hydra.run.dir={to_override(str(Path(directory).resolve()))}", "hydra.output_subdir=null"]


def _resumed_run(path: str, rest: Sequence[str]) -> list[str]:
    """Returns the arguments that resume a run; other overrides are passed as data, to be merged into its config."""
    if flags := [argument for argument in rest if argument.startswith("-")]:
        raise UserError(f"resume={path} takes no flags: leave out {flags[0]}")
    run = Run.open(path, _log_dir(rest) if path == "latest" else None, argument="resume")
    run_dir = last_value(rest, "hydra.run.dir")
    if run_dir and Path(run_dir).resolve() != run.dir:
        raise UserError(f"resume={path} continues in the directory of the run: leave out hydra.run.dir")
    of_hydra = [override for override in rest if is_hydras(override) and override_key(override) != "hydra.run.dir"]
    changes = [override for override in rest if not is_hydras(override)]
    return [
        *of_hydra,
        *(override for override in changes if override.startswith("paths.")),
        *([f"changes={to_override(changes)}"] if changes else []),
        f"resume={to_override(str(run.dir))}",
        *_run_dir(run.dir),
    ]


def _resumable(directory: str | None) -> str | None:
    """Returns the path of the run in `directory`; None if there is none that can be resumed."""
    if directory is None or not (run := Run(Path(directory).resolve())).metadata:
        return None
    return str(run.dir) if run.status not in FINISHED and any(run.dir.glob("checkpoints/*.ckpt")) else None


def _has_begun(run: Run) -> bool:
    return run.status in UNFINISHED or (run.status in FINISHED and (run.dir / ".hydra" / "config.yaml").is_file())


def _begun_before(arguments: Sequence[str], environ: Mapping[str, str]) -> Path | None:
    """Returns the directory of the run that this command began before Slurm or torchrun started it again, or None.

    A job may hold several commands: only a run with the same arguments is meant, the newest one. torchrun does not
    count as a restart that a node came or went.
    """
    jobs = {kind: job for kind, job in scheduled_jobs(environ).items() if job["restarts"] or kind == "torchrun"}
    if not jobs:
        return None
    run_dir = last_value(arguments, "hydra.run.dir")
    paths = sorted(_log_dir(arguments).glob("runs/*/*/run.json"), reverse=True)
    runs = [Run(path.parent) for path in [*([Path(run_dir, "run.json")] if run_dir else []), *paths]]
    for run, record in undamaged(lambda run: (run, run.metadata), runs):
        start = [record, *record.get("resumed", [])][-1]
        if _script_arguments(start.get("argv", [])) != redact([*arguments]):
            continue
        for kind, before in start.get("jobs", {}).items():
            job = jobs.get(kind)
            if job is None or job["id"] != before.get("id"):
                continue
            if before.get("restarts", 0) < job["restarts"] or (kind == "torchrun" and run.status not in FINISHED):
                return run.dir.resolve()
    return None


def _log_dir(arguments: Sequence[str]) -> Path:
    """Returns the directory of all runs of a command line, whose choices may lie in folders of its search path."""
    flags = parse_flags(arguments)
    added = parse([override for override in flags.overrides if override_key(override) == "hydra.searchpath"])
    return find_log_dir([*flags.overrides, *with_search_path(added, flags.config_dir, CONFIGS / "train.yaml")])


def _script_arguments(argv: Sequence[str]) -> list[str]:
    """Returns the arguments after the script in the command line of a process."""
    script = next((i for i, argument in enumerate(argv) if argument.endswith(".py")), -1)
    return [*argv[script + 1 :]]


def _resumed_sweep(path: str, arguments: Sequence[str]) -> list[str]:
    """Returns the arguments that resume a sweep: its sweeper and launcher. The sweeper reads `sweep.json` itself."""
    sweep = Sweep.open(path, _log_dir(arguments), argument="sweep.resume")
    record = sweep.metadata
    check_format(record, sweep.dir / "sweep.json")
    sweep_dir = last_value(arguments, "hydra.sweep.dir")
    if sweep_dir and Path(sweep_dir).resolve() != sweep.dir:
        raise UserError(f"sweep.resume={path} continues in the sweep's directory: leave out hydra.sweep.dir")
    rest = [a for a in arguments if a not in MULTIRUN and override_key(a) not in ("sweep.resume", "hydra.sweep.dir")]
    sweeper, launcher = record.get("sweeper"), record.get("launcher", {}).get("choice")
    if sweeper not in SWEEPERS:
        raise UserError(f"{sweep.dir}/sweep.json: sweeper={sweeper}: expected one of {', '.join(SWEEPERS)}")
    override = last_value(rest, "hydra/sweeper")
    if override not in (None, sweeper):
        raise UserError(f"sweep.resume={path}: this sweep has hydra/sweeper={sweeper}, not {override}: leave that out")
    choices = [] if override else [f"hydra/sweeper={sweeper}"]
    if launcher in options("hydra/launcher") and last_value(rest, "hydra/launcher") is None:
        choices.append(f"hydra/launcher={launcher}")
    directory = to_override(str(sweep.dir))
    return ["--multirun", *rest, *choices, f"sweep.resume={directory}", f"hydra.sweep.dir={directory}"]
