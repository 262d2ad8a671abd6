"""What Hydra sees of the arguments of `src/train.py`.

What a run's or a sweep's directory holds is data, and comes into no argument: of a run its path is given, and of a
sweep which of our sweepers and which file of configs/hydra/launcher it was begun with.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.engine.config.compose import options
from lab.engine.config.overrides import is_hydras, last_value, log_dir, override_key, to_override
from lab.engine.runs.run import FINISHED, Run
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.errors import UserError
from lab.engine.utils.formats import check_format
from lab.engine.utils.processes import global_rank
from lab.engine.utils.redaction import redact

MULTIRUN = ("-m", "--multirun")
SWEEPERS = ("grid", "optuna")  # that a `sweep.json` may name


def hydra_arguments(arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Returns what Hydra sees of a command line; reads directories and changes nothing.

    Args:
        arguments: of `src/train.py`, as they were typed.
        environ: the environment, which tells of ranks and of Slurm's restarts.

    Raises:
        UserError: when there is no such run or sweep, or what is typed does not go with it.
    """
    if directory := last_value(arguments, "attach"):
        return _attached(directory, arguments, environ)
    if global_rank(environ):
        return _attached(_directory_of_rank_zero(arguments), ["attach"], environ)
    if asked := last_value(arguments, "sweep.resume"):
        return _resumed_sweep(asked, arguments)
    asked = last_value(arguments, "resume")
    rest = [word for word in arguments if override_key(word) != "resume"]
    if {*MULTIRUN} & {*rest}:
        if asked is not None:
            raise UserError(f"resume={asked} goes on with one run: leave out -m")
        return rest
    if asked == "auto":
        asked = _begun(last_value(rest, "hydra.run.dir"))
    asked = _interrupted_by_slurm(arguments, environ) or asked
    return rest if asked is None else _resumed_run(asked, rest)


def _attached(directory: str, arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Leads a process, a rank or a job of gpu_pool, into the directory of a run that was begun for it."""
    if len(arguments) > 1:
        other = next((word for word in arguments if override_key(word) != "attach"), arguments[-1])
        raise UserError(f"attach={directory} takes no other argument: leave out {other}")
    found = [f"attach={to_override(str(Run.open(directory, argument='attach').dir))}", *_inside(directory)]
    rank = global_rank(environ)
    return [*found, f"hydra.job.name=rank_{rank}"] if rank else found


def _directory_of_rank_zero(arguments: Sequence[str]) -> str:
    """Waits for the run that rank 0 begins, in a rank that torchrun or srun has started with the same command line."""
    if {*MULTIRUN} & {*arguments}:
        raise UserError("a sweep starts the ranks of its jobs by itself: leave torchrun or srun out")
    from lab.engine.distributed.rendezvous import await_run_dir  # torch loads here

    return str(await_run_dir())


def _inside(directory: str | Path) -> list[str]:
    return [f"hydra.run.dir={to_override(str(Path(directory).resolve()))}", "hydra.output_subdir=null"]


def _resumed_run(asked: str, rest: Sequence[str]) -> list[str]:
    """What is given anew goes along as data: it is merged into the saved config, and composes nothing."""
    if flags := [word for word in rest if word.startswith("-")]:
        raise UserError(f"resume={asked} takes no flags: leave out {flags[0]}")
    run = Run.open(asked, log_dir(rest), argument="resume")
    elsewhere = last_value(rest, "hydra.run.dir")
    if elsewhere and Path(elsewhere).resolve() != run.dir:
        raise UserError(f"resume={asked} goes on in the directory of the run: leave out hydra.run.dir")
    hydras = [word for word in rest if is_hydras(word) and override_key(word) != "hydra.run.dir"]
    changes = [word for word in rest if not is_hydras(word)]
    places = [word for word in changes if word.startswith("paths.")]
    given = [f"changes={to_override(changes)}"] if changes else []
    return [
        *hydras,
        *places,
        *given,
        f"resume={to_override(str(run.dir))}",
        *_inside(run.dir),
    ]


def _begun(directory: str | None) -> str | None:
    """The run that `directory` holds, where that can go on."""
    if directory is None or not (run := Run(Path(directory).resolve())).record:
        return None
    return str(run.dir) if run.status not in FINISHED and any(run.dir.glob("checkpoints/*.ckpt")) else None


def _interrupted_by_slurm(arguments: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """The run that this command was at when Slurm put the job back, which it now starts again.

    A job may hold several commands, and a run that was stopped before its first checkpoint begins anew. What this
    start of the job has begun is not taken up: another rank may have been faster.
    """
    restart = int(environ.get("SLURM_RESTART_COUNT") or 0)
    if restart == 0:
        return None
    named = last_value(arguments, "hydra.run.dir")
    found = sorted(Path(log_dir(arguments)).glob("runs/*/*/run.json"), reverse=True)
    for path in [*([Path(named, "run.json")] if named else []), *found]:
        if not path.is_file():
            continue
        record = json.loads(path.read_text())
        begun = [record, *record.get("resumed", [])][-1]
        if (
            begun.get("slurm_job") == environ.get("SLURM_JOB_ID")
            and begun.get("slurm_restart", 0) < restart
            and _typed(begun["argv"]) == redact([*arguments])
            and record["status"] not in FINISHED
            and any(path.parent.glob("checkpoints/*.ckpt"))
        ):
            return str(path.parent)
    return None


def _typed(argv: Sequence[str]) -> list[str]:
    """What stood behind the script in the command of a process."""
    script = next((i for i, word in enumerate(argv) if word.endswith(".py")), -1)
    return [*argv[script + 1 :]]


def _resumed_sweep(asked: str, arguments: Sequence[str]) -> list[str]:
    """What a sweep is stands in its `sweep.json`, which the sweeper reads; here are its kinds alone."""
    sweep = Sweep.open(asked, log_dir(arguments), argument="sweep.resume")
    record = sweep.record
    check_format(record, sweep.dir / "sweep.json")
    elsewhere = last_value(arguments, "hydra.sweep.dir")
    if elsewhere and Path(elsewhere).resolve() != sweep.dir:
        raise UserError(f"sweep.resume={asked} goes on in the sweep's directory: leave out hydra.sweep.dir")
    rest = [w for w in arguments if w not in MULTIRUN and override_key(w) not in ("sweep.resume", "hydra.sweep.dir")]
    kind, launcher = record.get("sweeper"), record.get("launcher", {}).get("choice")
    if kind not in SWEEPERS:
        raise UserError(f"{sweep.dir}/sweep.json: sweeper={kind}: expected one of {', '.join(SWEEPERS)}")
    typed = last_value(rest, "hydra/sweeper")
    if typed not in (None, kind):
        raise UserError(f"sweep.resume={asked}: this is a sweep of hydra/sweeper={kind}, and {typed} would be another")
    chosen = [] if typed else [f"hydra/sweeper={kind}"]
    if launcher in options("hydra/launcher") and last_value(rest, "hydra/launcher") is None:
        chosen.append(f"hydra/launcher={launcher}")
    directory = to_override(str(sweep.dir))
    return ["--multirun", *rest, *chosen, f"sweep.resume={directory}", f"hydra.sweep.dir={directory}"]
