"""The places of hydra/launcher=gpu_pool, and how jobs take them: real processes, of another script."""

import pytest

from lab.checks import machine

# What a run leaves, and when it was where
SCRIPT = """
import json, os, pathlib, sys, time
began = time.time()
here = pathlib.Path.cwd()
if os.fork() if SPAWN else False:
    pass
exec(ACTION)
(here / ".hydra").mkdir(exist_ok=True)
(here / ".hydra" / "config.yaml").write_text("objective: {metric: val/acc, mode: max}")
(here / "metrics.json").write_text('{"val/acc": 0.5}')
(here / "run.json").write_text('{"status": "completed"}')
facts = {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "cores": sorted(os.sched_getaffinity(0))}
(here / "facts.json").write_text(json.dumps(facts | {"began": began, "ended": time.time()}))
"""


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
