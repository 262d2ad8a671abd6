"""Asks Slurm, or submitit's queue on this machine, to start a job again."""

import logging
import os
import re
import signal
import subprocess
import sys

log = logging.getLogger(__name__)

# Sent before the end of the time: Lightning's users ask Slurm for the first, submitit for the second.
WARNINGS = [signal.SIGUSR1, signal.SIGUSR2] if hasattr(signal, "SIGUSR1") else []
LOCAL_REQUEUE = 144  # submitit.local.local.LOCAL_REQUEUE_RETURN_CODE


def warning_signals() -> list[signal.Signals]:
    """Names the signals that warn this process of the end of its time; none outside of a queue."""
    queued = "SLURM_JOB_ID" in os.environ or os.environ.get("SUBMITIT_EXECUTOR") == "local"
    return WARNINGS if queued else []


def requeue() -> None:
    """Puts this job back under its own number; Slurm then ends what is left of it at once.

    submitit's own queue on this machine is asked by an exit status that is agreed on.
    """
    if "SLURM_JOB_ID" not in os.environ:
        sys.exit(LOCAL_REQUEUE)
    try:
        subprocess.run(["scontrol", "requeue", _job_id()], timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("Slurm does not start job %s again (%s): submit it again, with resume=", _job_id(), error)


def starts_again(signum: int) -> bool:
    """Tells whether whoever sent a signal will start this job again, so that it is not over yet.

    Slurm sends SIGTERM when a job is cancelled, and when it is put back, as to make room for another.
    """
    if signum in WARNINGS:
        return True
    if "SLURM_JOB_ID" not in os.environ:
        return False
    command = ["scontrol", "--oneliner", "show", "job", _job_id()]
    try:
        answer = subprocess.run(command, timeout=20, capture_output=True, text=True, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    restarts = re.search(r"\bRestarts=(\d+)", answer)  # the state is COMPLETING in both cases
    return restarts is not None and int(restarts[1]) > int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _job_id() -> str:
    """The number of this process's job, as Slurm's commands take it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
