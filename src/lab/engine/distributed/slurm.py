"""What Slurm and submitit are asked for: to start a job again."""

import logging
import os
import re
import subprocess
import sys

from lab.engine.distributed.preemption import SLURM_SIGNALS

log = logging.getLogger(__name__)

SUBMITIT_AGAIN = 144  # submitit.local.local.LOCAL_REQUEUE_RETURN_CODE


def requeue() -> None:
    """Asks Slurm to start this job again, under the number that it has; Slurm then ends what is left of it at once.

    Of submitit's own queue on this machine its way of asking is to end with a status that is agreed on.
    """
    if "SLURM_JOB_ID" not in os.environ:
        sys.exit(SUBMITIT_AGAIN)
    try:
        subprocess.run(["scontrol", "requeue", _job()], timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("Slurm does not start job %s again (%s): submit it again, with resume=", _job(), error)


def starts_again(signum: int) -> bool:
    """Whether whoever sent a signal will start this job again, so that it is not over yet.

    Slurm sends SIGTERM when a job is cancelled, and when it is put back, as to make room for another.
    """
    if signum in SLURM_SIGNALS:
        return True
    if "SLURM_JOB_ID" not in os.environ:
        return False
    asked = ["scontrol", "--oneliner", "show", "job", _job()]
    try:
        told = subprocess.run(asked, timeout=20, capture_output=True, text=True, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    starts = re.search(r"\bRestarts=(\d+)", told)  # the state is COMPLETING in both cases
    return starts is not None and int(starts[1]) > int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _job() -> str:
    """The number of this process's job, as Slurm's commands take it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
