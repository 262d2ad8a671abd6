"""Asks Slurm, or submitit's local queue, to requeue a job."""

import logging
import os
import re
import signal
import subprocess
import sys

log = logging.getLogger(__name__)

# Sent before a job's time ends: users of Lightning ask Slurm for the first, submitit asks for the second
WARNINGS = [signal.SIGUSR1, signal.SIGUSR2] if hasattr(signal, "SIGUSR1") else []
LOCAL_REQUEUE = 144  # submitit.local.local.LOCAL_REQUEUE_RETURN_CODE


def warning_signals() -> list[signal.Signals]:
    """Returns the signals that warn this process of the end of its time; none outside of a queue."""
    queued = "SLURM_JOB_ID" in os.environ or os.environ.get("SUBMITIT_EXECUTOR") == "local"
    return WARNINGS if queued else []


def requeue() -> None:
    """Requeues this job under its own number; Slurm then ends its processes at once.

    submitit's local queue restarts a job that ends with a certain exit status.
    """
    if "SLURM_JOB_ID" not in os.environ:
        sys.exit(LOCAL_REQUEUE)
    try:
        subprocess.run(["scontrol", "requeue", _job_id()], timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("Slurm did not requeue job %s (%s): submit it again, with resume=", _job_id(), error)


def is_requeued(signum: int) -> bool:
    """Returns whether the sender of a signal will start this job again.

    Slurm sends SIGTERM both when a job is cancelled and when it is requeued, for example to make room for another.
    """
    if signum in WARNINGS:
        return True
    if "SLURM_JOB_ID" not in os.environ:
        return False
    command = ["scontrol", "--oneliner", "show", "job", _job_id()]
    try:
        output = subprocess.run(command, timeout=20, capture_output=True, text=True, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    restarts = re.search(r"\bRestarts=(\d+)", output)  # the state is COMPLETING in both cases
    return restarts is not None and int(restarts[1]) > int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _job_id() -> str:
    """Returns the number of this process's job, as Slurm's commands take it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
