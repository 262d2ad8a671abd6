"""`python src/train.py …` with a fault in one rank: not a test, but what some of them start.

FAULT says which: KIND:RANK:BATCH, where KIND is raise, sleep, memory, kill, stop, which is a signal amid the test, or
refuse, which is a user's mistake that the rank finds while it builds the model. `raise` and `refuse` print when.
"""

import functools
import os
import signal
import time
from typing import Any

import torch

from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import ROOT
from lab.engine.utils.processes import global_rank
from lab.models.mlp import MLP

kind, rank, at = os.environ["FAULT"].split(":")
construct, step, test_step = MLP.__init__, MLP.training_step, MLP.test_step


def print_time() -> None:
    print(f"fault at {time.monotonic()}", flush=True)


@functools.wraps(construct)
def constructor(self: MLP, *args: Any, **kwargs: Any) -> None:
    if kind == "refuse" and global_rank() == int(rank):
        print_time()
        raise UserError("the fault")
    construct(self, *args, **kwargs)


def training_step(self: MLP, batch: Any, batch_idx: int) -> Any:
    if self.global_rank == int(rank) and batch_idx == int(at):
        if kind == "raise":
            print_time()
            raise KeyError("the fault")
        if kind == "sleep":
            time.sleep(1000)
        if kind == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)


def tested_step(self: MLP, batch: Any, batch_idx: int) -> Any:
    if kind == "stop" and self.global_rank == int(rank) and batch_idx == int(at):
        os.kill(os.getpid(), signal.SIGTERM)
    return test_step(self, batch, batch_idx)


if __name__ == "__main__":
    MLP.__init__ = constructor  # type: ignore[method-assign]
    MLP.training_step = training_step  # type: ignore[method-assign, assignment]
    MLP.test_step = tested_step  # type: ignore[method-assign, assignment]
    os.environ["LAB_SCRIPT"] = __file__  # of the other ranks
    script = ROOT / "src" / "train.py"
    exec(compile(script.read_text(), script, "exec"))
