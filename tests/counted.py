"""`python src/train.py …`, which prints the collectives of five steps of rank 0: not a test, but what one starts."""

import os
from collections import Counter
from typing import Any

from torch.profiler import ProfilerActivity, profile

from lab.engine.utils.paths import ROOT
from lab.models.mlp import MLP

FIRST, STEPS = 3, 5  # DDP arranges its buckets anew after its first step

profiler = profile(activities=[ProfilerActivity.CPU])


def on_train_batch_start(self: MLP, batch: Any, batch_idx: int) -> None:
    if self.trainer.current_epoch or self.global_rank:
        return
    if batch_idx == FIRST:
        profiler.start()
    if batch_idx == FIRST + STEPS:
        profiler.stop()
        print("collectives:", dict(Counter(e.name for e in profiler.events() or [] if e.name.startswith("c10d::"))))


if __name__ == "__main__":
    MLP.on_train_batch_start = on_train_batch_start  # type: ignore[method-assign, assignment]
    os.environ["LAB_SCRIPT"] = __file__  # of the other ranks
    script = ROOT / "src" / "train.py"
    exec(compile(script.read_text(), script, "exec"))
