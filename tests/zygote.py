"""Runs scripts of a checkout, each in a fork of this process, which has imported torch and Lightning once.

Each line of stdin is a job in JSON: `script`, its `words`, the file `out` of what it says, and the working directory
`cwd`; `seconds` after which it is killed, or null. The answer is its exit status, or minus the signal that ended it.
"""

import json
import os
import runpy
import signal
import sys
from threading import Timer
from typing import Any

import pytorch_lightning as _  # noqa: F401

import lab.engine.training.train  # noqa: F401

SECONDS = 120  # that a script may take


def run(job: dict[str, Any]) -> None:
    if job["seconds"] is None:
        signal.alarm(SECONDS)
    else:
        os.setsid()
    out = os.open(job["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(out, number)
    os.chdir(job["cwd"])
    sys.argv = [job["script"], *job["words"]]
    runpy.run_path(job["script"], run_name="__main__")


for line in sys.stdin:
    job = json.loads(line)
    if (child := os.fork()) == 0:
        run(job)
        break
    killer = Timer(job["seconds"] or 0, os.killpg, [child, signal.SIGKILL])
    if job["seconds"] is not None:
        killer.start()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    killer.cancel()
