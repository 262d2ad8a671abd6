"""Configs from elsewhere run no code: each attack here would touch a canary file, and none does."""

import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from lab.engine.compat.hydra import BASIC_LAUNCHER as LAUNCHER
from lab.engine.config import instantiate as instantiation
from lab.engine.config.compose import compose
from lab.engine.config.instantiate import instantiate
from lab.engine.utils.errors import UserError
from tests.conftest import SMALL, run_script

SWEEPER = "hydra_plugins.grid_sweeper.GridSweeper"
OPEN = {"_target_": "builtins.open", "file": "CANARY", "mode": "w"}  # Hydra's own list lets it through
TOUCH = {"_target_": "os.system", "_args_": ["touch CANARY"]}
PICKLE = {"f": "PICKLE", "map_location": None, "weights_only": False}  # a file that touches the canary when loaded

CONFIGURED: dict[str, Any] = {
    # plainly
    "system": TOUCH,
    "open": OPEN,
    "popen": {"_target_": "subprocess.Popen", "args": ["touch", "CANARY"]},
    "eval": {"_target_": "builtins.eval", "_args_": ["open('CANARY', 'w')"]},
    "exec": {"_target_": "builtins.exec", "_args_": ["open('CANARY', 'w')"]},
    "import": {"_target_": "builtins.__import__", "name": "antigravity"},
    "import_module": {"_target_": "importlib.import_module", "name": "antigravity"},
    "run_path": {"_target_": "runpy.run_path", "path_name": "SCRIPT"},
    "copy": {"_target_": "shutil.copyfile", "src": "SCRIPT", "dst": "CANARY"},
    "path": {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["CANARY"]}},
    "log file": {"_target_": "logging.FileHandler", "filename": "CANARY"},
    "logging": {"_target_": "logging.config.dictConfig", "config": {"version": 1}},
    "partial": {"_target_": "functools.partial", "_args_": [OPEN]},
    # pickles
    "pickle.loads": {"_target_": "pickle.loads", "_args_": ["x"]},
    "torch.load": {"_target_": "torch.load", **PICKLE},
    "torch.hub": {"_target_": "torch.hub.load", "repo_or_dir": "FOLDER", "model": "evil", "source": "local"},
    "numpy.load": {"_target_": "numpy.load", "file": "PICKLE", "allow_pickle": True},
    "joblib.load": {"_target_": "joblib.load", "filename": "PICKLE"},
    "a method of Lightning's": {
        "_target_": "pytorch_lightning.LightningModule.load_from_checkpoint",
        "checkpoint_path": "PICKLE",
        "weights_only": False,
    },
    "a method of ours": {
        "_target_": "lab.models.lenet.LeNet.load_from_checkpoint",
        "checkpoint_path": "PICKLE",
        "weights_only": False,
    },
    "Lightning's own loader": {
        "_target_": "pytorch_lightning.plugins.io.TorchCheckpointIO.load_checkpoint",
        "_args_": [None, "PICKLE"],
        "weights_only": False,
    },
    "fabric": {"_target_": "lightning_fabric.utilities.cloud_io._load", "path_or_url": "PICKLE"},
    # through Hydra
    "get_object": {"_target_": "hydra.utils.get_object", "path": "antigravity"},
    "call": {"_target_": "hydra.utils.call", "config": OPEN, "_recursive_": False},
    "locate": {"_target_": "hydra._internal.utils._locate", "path": "antigravity"},
    "plugin": {"_target_": "hydra.experimental.callbacks.PickleJobInfoCallback"},
    # through what an allowed package imports, or hides
    "an import of ours": {"_target_": "lab.engine.runs.run.subprocess.run", "args": ["touch", "CANARY"]},
    "an import of ours, deeper": {"_target_": "lab.engine.config.compose.import_module", "name": "antigravity"},
    "a class that we import": {"_target_": "lab.models.tasks.plots.Image.open", "fp": "PICKLE"},
    "a function that we import": {"_target_": "lab.optim.optimizers.partial", "_args_": [OPEN]},
    "an import of Lightning's": {"_target_": "pytorch_lightning.callbacks.model_checkpoint.os.system", "_args_": ["x"]},
    "an import of torch's": {"_target_": "torch.optim.optimizer.warnings.sys.modules.pop", "_args_": ["lab"]},
    "a class that torch imports": {"_target_": "torch.optim.optimizer.OrderedDict"},
    "a function of ours": {"_target_": "lab.engine.training.train.train", "cfg": {}},
    "a function that loads": {"_target_": "lab.engine.utils.project.project_settings"},
    "a private function": {"_target_": "lab.engine.runs.run._git"},
    "a private factory": {"_target_": "lab.optim.optimizers._num_steps", "trainer": OPEN},
    "ourselves": {"_target_": "lab.engine.config.instantiate.instantiate", "config": OPEN, "_recursive_": False},
    "the command line of Lightning": {"_target_": "pytorch_lightning.cli.LightningCLI", "args": ["fit"]},
    "Lightning's instantiate": {"_target_": "pytorch_lightning.cli.instantiate_class", "args": [], "init": {}},
    "globals": {"_target_": "lab.models.lenet.LeNet.__init__.__globals__.get", "_args_": ["torch"]},
    "a module": {"_target_": "lab.models"},
    "a package": {"_target_": "lab"},
    "a value": {"_target_": "lab.engine.config.instantiate.ALLOWED"},
    "nothing": {"_target_": "lab.models.Nothing"},
    # hidden
    "in a list": [{"a": [[OPEN]]}],
    "in an argument": {"_target_": "lab.callbacks.progress.Progress", "interval": {"a": OPEN}},
    "in the positional ones": {"_target_": "lab.callbacks.progress.Progress", "_args_": [OPEN]},
    "in a callback's hook": {
        "_target_": "pytorch_lightning.callbacks.LambdaCallback",
        "on_fit_start": {"_partial_": True, **OPEN},
    },
    "partial and called later": {"_partial_": True, **TOUCH},
    "not recursive": {"_target_": "lab.callbacks.progress.Progress", "_recursive_": False, "interval": OPEN},
    "converted": {"_target_": "lab.callbacks.progress.Progress", "_convert_": "object", "interval": OPEN},
    "interpolated name": {"_target_": "${oc.env:XDG_TARGET}", "file": "CANARY", "mode": "w"},
    "name in parts": {"_target_": "builtins.${oc.decode:open}", "file": "CANARY", "mode": "w"},
    "aliased node": {"a": "${evil}"},
    "created node": {"a": "${oc.create:{_target_:builtins.open,file:'CANARY',mode:w}}"},
    "created late": {"a": r"\${oc.create:{_target_:builtins.open,file:'CANARY',mode:w}}"},
    "no text": {"_target_": ["os", "system"]},
    "a number": {"_target_": 1},
    "empty": {"_target_": ""},
    "dots": {"_target_": "lab..runs.subprocess.run"},
    "spaces": {"_target_": "lab.models.lenet.LeNet ; os.system"},
    "another alphabet": {"_target_": "lab.models.LeN\u00ebt"},
    "a look-alike package": {"_target_": "lab_evil.Model"},
    "torch beside its optimizers": {"_target_": "torch.optimize.evil"},
}

LOG = "hydra: {job_logging: {handlers: {file: {filename: %s}}}}"
HYDRA = {
    "callback": "hydra: {callbacks: {evil: {_target_: builtins.open, file: CANARY, mode: w}}}",
    "callback's argument": "hydra: {callbacks: {workers: {x: {_target_: builtins.open, file: CANARY, mode: w}}}}",
    "callback in place of ours": "hydra: {callbacks: {workers: {_target_: pathlib.Path}}}",
    "callback, pickling": "hydra: {callbacks: {x: {_target_: hydra.experimental.callbacks.PickleJobInfoCallback}}}",
    "callback, aliased": "evil: {_target_: builtins.open, file: CANARY, mode: w}\nhydra: {callbacks: {x: '${evil}'}}",
    "callbacks, aliased": "evil: {x: {_target_: builtins.open, file: CANARY, mode: w}}\nhydra: {callbacks: '${evil}'}",
    "callback, name interpolated": "hydra: {callbacks: {x: {_target_: '${oc.env:XDG_TARGET}', file: CANARY, mode: w}}}",
    "callback, created late": r"hydra: {callbacks: {workers: {x: '\${oc.create:{_target_:builtins.open}}'}}}",
    "callback through a plugin's import": "hydra: {callbacks: {x: {_target_: hydra_plugins.x.subprocess.Popen}}}",
    "launcher": "hydra: {launcher: {_target_: builtins.open}}",
    "launcher of one's own": "hydra/launcher\n{_target_: builtins.open, file: CANARY, mode: w}",
    "launcher's argument": f"hydra/launcher\n{{_target_: {LAUNCHER}, x: {{_target_: builtins.open, file: CANARY}}}}",
    "launcher's shell": f"hydra/launcher\n{{_target_: {LAUNCHER}, setup: [touch CANARY]}}",
    "launcher, name interpolated": "hydra/launcher\n{_target_: '${oc.env:XDG_TARGET}', file: CANARY, mode: w}",
    "launcher, not yet to be resolved": f"hydra/launcher\n{{_target_: {LAUNCHER}, x: '${{hydra:nothing}}'}}",
    "sweeper": "hydra: {sweeper: {_target_: builtins.open}}",
    "sweeper's argument": f"hydra/sweeper\n{{_target_: {SWEEPER}, x: [{{_target_: builtins.open, file: CANARY}}]}}",
    "handler": "hydra: {job_logging: {handlers: {x: {(): builtins.open, file: CANARY, mode: w}}}}",
    "handler's class": "hydra: {job_logging: {handlers: {x: {class: logging.handlers.SocketHandler, host: h}}}}",
    "handler's argument": "hydra: {job_logging: {handlers: {console: {stream: {(): builtins.open, file: CANARY}}}}}",
    "handler's attribute": "hydra: {job_logging: {handlers: {console: {.: {emit: x}}}}}",
    "filter": "hydra: {job_logging: {filters: {x: {(): builtins.open, file: CANARY, mode: w}}}}",
    "formatter": "hydra: {job_logging: {formatters: {x: {(): builtins.open, file: CANARY, mode: w}}}}",
    "formatter's class": "hydra: {job_logging: {formatters: {x: {class: pathlib.Path}}}}",
    "what Hydra itself logs": "hydra: {hydra_logging: {handlers: {x: {(): builtins.open, file: CANARY, mode: w}}}}",
    "logging, aliased": "evil: {version: 1, root: null}\nhydra: {job_logging: '${evil}'}",
    "handlers, aliased": "evil: {x: {(): builtins.open, file: C}}\nhydra: {job_logging: {handlers: {x: '${evil.x}'}}}",
    "an import": "hydra: {job_logging: {handlers: {console: {stream: ext://antigravity}}}}",
    "a log that a shell reads": LOG % "'${oc.env:HOME}/.bashrc'",
    "a log that a shell reads, aliased": "evil: .bashrc\n" + LOG % "'${evil}'",
    "environment": "hydra: {job: {env_set: {LD_PRELOAD: /tmp/evil.so}}}",
    "environment of Python": "hydra: {job: {env_set: {PYTHONPATH: /tmp/evil}}}",
}


class Touch:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return partial(open, mode="w"), (str(self.path),)


def fill(value: Any, tmp_path: Path) -> Any:
    """`value` with this test's paths in it."""
    if isinstance(value, str):
        paths = {"CANARY": "canary", "PICKLE": "evil.pt", "SCRIPT": "evil.py", "FOLDER": "."}
        return re.sub("CANARY|PICKLE|SCRIPT|FOLDER", lambda match: str(tmp_path / paths[match[0]]), value)
    if isinstance(value, dict):
        return {key: fill(item, tmp_path) for key, item in value.items()}
    return [fill(item, tmp_path) for item in value] if isinstance(value, list) else value


def arm(tmp_path: Path) -> None:
    """Puts there what the attacks use: a pickle and a script that touch the canary."""
    torch.save({"state_dict": Touch(tmp_path / "canary")}, tmp_path / "evil.pt")
    for name in ("evil.py", "hubconf.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")


@pytest.mark.parametrize("attack", CONFIGURED.values(), ids=CONFIGURED)
def test_a_hostile_config_builds_nothing(
    attack: Any, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm(tmp_path)
    monkeypatch.setenv("XDG_TARGET", "builtins.open")
    config = OmegaConf.create({"attack": fill(attack, tmp_path), "evil": fill(OPEN, tmp_path)})
    with pytest.raises(UserError, match=r"is not allowed|no such class|hides an interpolation"):
        instantiate(config.attack)


def test_the_attacks_would_work(tmp_path: Path) -> None:
    """What is refused above does its harm where nothing stands in its way."""
    import hydra.utils

    arm(tmp_path)
    hydra.utils.instantiate(fill(OPEN, tmp_path)).close()
    assert (tmp_path / "canary").exists()
    (tmp_path / "canary").unlink()
    torch.load(tmp_path / "evil.pt", weights_only=False)["state_dict"].close()
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "target",
    [
        "lab.engine.runs.run.subprocess.run",
        "lab.models.lenet.LeNet.load_from_checkpoint",
        "pytorch_lightning.Trainer.fit",
        "torch.load",
    ],
)
def test_a_name_that_leads_through_a_class_or_an_import_is_refused_unseen(target: str) -> None:
    """Before torch is imported: the command answers at once, and leaves no run directory."""
    with pytest.raises(UserError, match="is not allowed"):
        instantiation.authorize_names(OmegaConf.create({"a": [{"b": {"_target_": target}}]}))


def test_what_configs_name_is_built() -> None:
    for target in (
        "lab.models.lenet.LeNet",
        "lab.data.mnist.MNIST",
        "lab.optim.optimizers.AdamW",
        "torch.optim.SGD",
        "torch.optim.lr_scheduler.OneCycleLR",
        "pytorch_lightning.Trainer",
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "pytorch_lightning.loggers.CSVLogger",
        "pytorch_lightning.strategies.DDPStrategy",
        "pytorch_lightning.profilers.SimpleProfiler",
    ):
        assert callable(instantiation.locate(target)), target
    assert instantiate({"a": [{"_target_": "lab.callbacks.progress.Progress", "interval": 1.0}]})["a"][0]


def test_a_package_of_ones_own_is_added_to_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("import os\nclass Thing:\n    pass\ndef make():\n    return Thing()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"mine.Thing is not allowed\n.*allow in \[tool.lab\] of pyproject.toml"):
        instantiate({"_target_": "mine.Thing"})
    monkeypatch.setattr(instantiation, "ALLOWED", [*instantiation.ALLOWED, "mine"])
    assert type(instantiate({"_target_": "mine.Thing"})).__name__ == "Thing"
    for target in ("mine.make", "mine.os.system"):
        with pytest.raises(UserError, match="is not allowed"):
            instantiate({"_target_": target})
    monkeypatch.setattr(instantiation, "FACTORIES", [*instantiation.FACTORIES, "mine"])
    assert type(instantiate({"_target_": "mine.make"})).__name__ == "Thing"


def write(tmp_path: Path, experiment: str) -> None:
    """Puts an experiment there, or one that takes a choice of the group of Hydra's that its first line names."""
    group, _, choice = fill(experiment, tmp_path).partition("\n")
    if group in ("hydra/launcher", "hydra/sweeper"):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "evil.yaml").write_text(choice)
        experiment = f"defaults: [override /{group}: evil]"
    (tmp_path / "experiment").mkdir(exist_ok=True)
    (tmp_path / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{fill(experiment, tmp_path)}\n")


def compose_with(tmp_path: Path, experiment: str, *overrides: str) -> DictConfig:
    """The config with an experiment file from elsewhere."""
    write(tmp_path, experiment)
    return compose([f"hydra.searchpath=[file://{tmp_path}]", "experiment=evil", *overrides], hydra=True)


@pytest.mark.parametrize("attack", HYDRA.values(), ids=HYDRA)
def test_hydra_builds_nothing_hostile(
    attack: str, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_TARGET", "builtins.open")
    with pytest.raises(UserError, match=r"hydra\.(callbacks|launcher|sweeper|job|hydra_logging)"):
        compose_with(tmp_path, attack)


@pytest.mark.parametrize(
    "friendly",
    [
        "seed: 1",
        "hydra: {job_logging: {root: {level: DEBUG}}}",
        "defaults: [override /hydra/job_logging: none]",
        "logger: {tensorboard: {comment: '${hydra:runtime.choices.model} ${hydra:job.num}'}}",
        "callbacks: {checkpoint: {dirpath: '${paths.run_dir}/weights'}}",
        "hydra: {callbacks: {log: {_target_: hydra.experimental.callbacks.LogJobReturnCallback}}}",
        "hydra: {sweeper: {params: {seed: 'range(3)', paths.data_dir: '${paths.data_dir}/a'}}}",
        f"hydra/launcher\n{{_target_: {LAUNCHER}, setup: null, folder: '${{hydra.sweep.dir}}/a'}}",
    ],
)
def test_what_is_meant_well_composes(friendly: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_TARGET", "plain")
    compose_with(tmp_path, friendly, "hydra.run.dir=runs/${hydra:job.override_dirname}")


def test_a_plugin_s_launcher_and_its_parts_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "mine.py").write_text("import subprocess\nclass Launcher:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    experiment = "hydra/launcher\n{_target_: hydra_plugins.mine.%s, n_jobs: 2, folder: '${hydra.sweep.dir}/%%j'}"
    compose_with(tmp_path, experiment % "Launcher")
    with pytest.raises(UserError, match="is not allowed"):
        compose_with(tmp_path, experiment % "subprocess.Popen")
    with pytest.raises(UserError, match="give it on the command line"):
        compose_with(tmp_path, "hydra/launcher\n{_target_: hydra_plugins.mine.Launcher, setup: [module load cuda]}")
    compose_with(tmp_path, experiment % "Launcher", "+hydra.launcher.setup=[module load cuda]")


COMMANDS = {
    "a callback of Hydra": (HYDRA["callback"], [], "hydra.callbacks.evil"),
    "Hydra's log": (HYDRA["what Hydra itself logs"], [], "hydra.hydra_logging.handlers.x"),
    "a handler in a sweep": (HYDRA["handler"], ["-m"], "hydra.job_logging.handlers.x"),
    "a sweeper": (HYDRA["sweeper's argument"], ["-m"], "hydra.sweeper.x[0]._target_: builtins.open"),
    # git status, which every run asks for, runs the command that core.fsmonitor names
    "git": (
        "hydra: {job: {env_set: {GIT_CONFIG_COUNT: '1', GIT_CONFIG_KEY_0: core.fsmonitor,"
        " GIT_CONFIG_VALUE_0: touch CANARY}}}",
        [],
        "hydra.job.env_set.GIT_CONFIG",  # of which key, the check of secrets may say first
    ),
    "a callback of Lightning": (
        "callbacks: {evil: {_target_: builtins.open, file: CANARY, mode: w}}",
        [],
        "_target_: builtins.open",
    ),
    "a model": (
        "model: {_target_: lab.engine.runs.run.subprocess.run}",
        [],
        "_target_: lab.engine.runs.run.subprocess.run is not allowed",
    ),
    "an argument": (
        "evil: {_target_: builtins.open, file: CANARY, mode: w}\nmodel: {hidden_sizes: '${evil}'}",
        [],
        "_target_: builtins.open",
    ),
}


@pytest.mark.parametrize(("experiment", "flags", "said"), COMMANDS.values(), ids=COMMANDS)
def test_a_hostile_experiment_is_answered_by_the_command(
    experiment: str, flags: list[str], said: str, canary: Path, tmp_path: Path
) -> None:
    write(tmp_path, experiment)
    answer = run_script(
        "src/train.py", *flags, "--config-dir", str(tmp_path), "experiment=evil",
        f"paths.log_dir={tmp_path}/logs", *SMALL, timeout=60,
    )  # fmt: skip
    refused(answer.returncode, answer.stderr, said)
    assert not (tmp_path / "logs").exists()


def test_hydra_s_rerun_of_a_pickle_is_refused(canary: Path, tmp_path: Path) -> None:
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(Touch(canary)))
    for flag in ("--experimental-rerun", "--exp"):
        answer = run_script("src/train.py", flag, str(tmp_path / "config.pickle"), timeout=60)
        refused(answer.returncode, answer.stderr, "would load a pickle")


def refused(status: int, said: str, words: str) -> None:
    """Holds an answer against what a refusal looks like."""
    assert status == 2, said
    assert words in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 10
