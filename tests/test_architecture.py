"""The walls of the house (design.md): which file may know of what, and what nobody touches.

Each check is tried on a small example first, so that it cannot pass by being blind.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from lab.engine.utils.paths import CONFIGS, ROOT
from tests.assignments import argv_assignments, environment_assignments, foreign_assignments
from tests.private_names import private_names, private_targets

LAB = ROOT / "src" / "lab"
SOURCES = sorted(path for room in ("src", "scripts", "benchmarks") for path in (ROOT / room).rglob("*.py"))
FREE = [path for path in SOURCES if LAB / "engine" / "compat" not in path.parents]
LIGHT = ["utils", "config", "runs"]  # rooms that load no torch


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_room_imports_only_what_it_may() -> None:
    """The contracts of pyproject.toml."""
    lint = Path(sys.executable).with_name("lint-imports")  # in this process it would silence all loggers
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


def test_no_module_stands_loose_beside_the_rooms() -> None:
    assert [path.name for path in LAB.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch._dynamo", ["torch._dynamo"]),
        ("from hydra._internal.utils import get_args_parser", ["hydra._internal.utils"]),
        ("from pytorch_lightning.loops.fit_loop import _FitLoop", ["_FitLoop"]),
        ("trainer._launcher", ["trainer._launcher"]),
        ("getattr(trainer, '_launcher')", ["getattr(trainer, '_launcher')"]),
        ("import torch\ntorch._C.x", ["torch._C"]),
        ("patch('torch._dynamo.config')", ["torch._dynamo"]),
        (
            "import pytorch_lightning as pl\nclass A(pl.LightningModule):\n    def f(self): return self._trainer",
            ["A._trainer", "self._trainer"],
        ),
        (
            "import pytorch_lightning as pl\nclass A(pl.LightningModule):\n    def f(self): self._trainer = 1",
            ["A._trainer"],
        ),
        ("from torch import nn\nclass A(nn.Module):\n    def _apply(self, f): ...", ["A._apply"]),
        ("from torch import nn\nclass A(nn.Module): ...\nclass B(A):\n    _buffers = 1", ["B._buffers"]),
        (
            "from lab.optim.schedulers import OneCycle\nclass A(OneCycle):\n    x = '_schedule_phases'",
            ["A._schedule_phases"],
        ),
        ("self._own = 1\nself._own", []),
        ("def _own(): ...\nmodule._own", []),
        ("x.__dict__\nos._exit(1)\nsys._current_frames()\ninstantiate(x, _convert_='all')", []),
        ("'_target_'\nconfig._target_\nhydra.utils.get_class('lab.Run')", []),
    ],
)
def test_private_names_are_seen(source: str, found: list[str]) -> None:
    assert [one.partition(": ")[2] for one in private_names(source)] == found


def test_private_names_stand_in_compat_alone() -> None:
    """Those of libraries; those of one's own stay in their file."""
    assert [f"{name(path)}:{one}" for path in FREE for one in private_names(path.read_text())] == []


def test_configs_lead_to_no_private_name() -> None:
    assert private_targets("a:\n  _target_: lab.models.lenet._LeNet\n  _partial_: true") == ["2: _LeNet"]
    assert private_targets("backend: torch._inductor") == ["1: _inductor"]
    paths = sorted(CONFIGS.rglob("*.yaml"))
    assert [f"{name(path)}:{one}" for path in paths for one in private_targets(path.read_text())] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import warnings\nwarnings.showwarning = f", ["warnings.showwarning"]),
        ("from lab.engine.utils import machine\nmachine.count_gpus = f", ["machine.count_gpus"]),
        ("from torch.optim import SGD\nSGD.step = f", ["SGD.step"]),
        ("from torch.optim import SGD\nsetattr(SGD, 'step', f)", ["setattr(SGD, 'step', f)"]),
        ("import torch\ndel torch.nn.Linear", ["torch.nn.Linear"]),
        ("import torch\nvars(torch)['nn'] = 1", ["vars(torch)['nn']"]),
        ("import torch\ntorch.nn.__dict__['x'] = 1", ["torch.nn.__dict__['x']"]),
        ("import sys\nsys.modules['sklearn'] = None", ["sys.modules['sklearn']"]),
        ("def f(trainer): trainer.should_stop = True", ["trainer.should_stop"]),
        ("def f(trainer): trainer.strategy.x += 1", ["trainer.strategy.x"]),
        ("class A:\n    def f(self): self.trainer.x = 1", ["self.trainer.x"]),
        ("def f(trainer):\n    loop = trainer.fit_loop\n    loop.x = 1", ["loop.x"]),
        ("def f(trainer):\n    for c in trainer.callbacks: c.x = 1", ["c.x"]),
        ("import optuna\nfound = 1\ndef f():\n    made = optuna.create_study()\n    made.stop = 1", ["made.stop"]),
        ("from optuna import Study\ndef f(x: 'Study | None'): x.stop = 1", ["x.stop"]),
        ("from optuna import Study\ndef f(x: Study): setattr(x.sampler, 'y', 1)", ["setattr(x.sampler, 'y', 1)"]),
        (
            "from optuna import Study\nclass A:\n    def __init__(self, x: Study): self.x = x\n"
            "    def f(self): self.x.stop = 1",
            ["self.x.stop"],
        ),
        (
            "from torch import nn\nclass A(nn.Module):\n    def f(self):\n        self.weight.data = 1",
            ["self.weight.data"],
        ),
        ("def f(trainer): trainer.fit_loop = 1", []),
        ("class A:\n    def f(self): self.x = 1", []),
        ("class Own: ...\ndef f(x: Own): x.y = 1", []),
        ("class Own: ...\ndef f():\n    x = Own()\n    x.y = 1", []),
        ("from lab.engine.runs.run import Run\ndef f(trainer: Run): trainer.y = 1", []),
        ("from omegaconf import DictConfig\ndef f(x: DictConfig): x.trainer.max_epochs = 1", []),
    ],
)
def test_assignments_are_seen(source: str, found: list[str]) -> None:
    assert [one.partition(": ")[2] for one in foreign_assignments(source)] == found


def test_nothing_of_a_library_is_replaced() -> None:
    assert [f"{name(path)}:{one}" for path in SOURCES for one in foreign_assignments(path.read_text())] == []


def test_the_arguments_are_assigned_in_one_place() -> None:
    for source in ("sys.argv = x", "sys.argv[1:] = x", "sys.argv.append(x)", "del sys.argv[0]", "a, sys.argv = x"):
        assert argv_assignments(source) == [1]
    assert argv_assignments("x = sys.argv[1:]\nsys.argv.copy()") == []
    found = [name(path) for path in SOURCES for _ in argv_assignments(path.read_text())]
    assert found == ["src/train.py"]


def test_the_environment_is_set_in_one_place() -> None:
    for source in ("os.environ['A'] = x", "os.environ.update(A=x)", "del os.environ['A']", "os.putenv('A', x)"):
        assert environment_assignments(source) == [1]
    assert environment_assignments("x = os.environ['A']\nos.environ.get('A')\nx = os.environ | {}") == []
    found = {name(path) for path in SOURCES if environment_assignments(path.read_text())}
    assert found <= {"src/lab/engine/utils/environment.py"}


def test_what_answers_a_wrong_command_line_loads_no_torch() -> None:
    paths = [
        path
        for room in LIGHT
        for path in (LAB / "engine" / room).rglob("*.py")
        if path.stem not in ("random_state", "replay")
    ]
    modules = [".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in paths]
    probe = (
        "import importlib, sys, lab\nlab.Run, lab.Sweep, lab.compose, lab.train\n"
        f"for name in ['lab', *{modules}]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(modules) > 10
