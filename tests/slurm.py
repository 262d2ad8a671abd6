"""A Slurm of one node, with daemons of its own, for tests: nothing of the machine's own Slurm is touched."""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from lab.engine.utils.paths import ROOT

T = TypeVar("T")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue", "sinfo")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where daemons are
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
CredType=cred/munge
# a job that is put back waits until the credentials of its last start have expired: 120 s, where nothing is said
AuthInfo=socket={folder}/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/linear
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
JobRequeue=1
KillOnBadExit=1
KillWait=10
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
"""


@dataclass(frozen=True)
class Slurm:
    """Commands to a Slurm that is running.

    Args:
        environment: in which its commands find it.
    """

    environment: Mapping[str, str]

    def ask(self, *words: str, **environment: str) -> str:
        """What a command prints."""
        variables = {**self.environment, **environment}
        done = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    def submit(self, folder: Path, line: str, *options: str, **environment: str) -> str:
        """Queues a job of one line of shell, its output in `folder`; its number."""
        script = folder / "job.sh"
        script.write_text(f"#!/bin/sh\n{line}\n")
        return self.ask(
            *["sbatch", "--parsable", "--open-mode=append", f"--output={folder}/out", f"--error={folder}/err"],
            *[f"--chdir={folder}", *options, str(script)],
            **{"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **environment},
        )

    def state(self, job: str) -> dict[str, str]:
        """What Slurm says of a job, such as `JobState` and `Restarts`."""
        pairs = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return dict(pair.partition("=")[::2] for pair in pairs)

    def await_state(self, job: str, *states: str, seconds: float = 120) -> dict[str, str]:
        """Waits until a job is in one of `states`."""

        def told() -> dict[str, str]:
            said = self.state(job)
            assert said["JobState"] not in {"FAILED", "TIMEOUT"} - {*states}, Path(said["StdErr"]).read_text()
            return said if said["JobState"] in states else {}

        return await_that(told, seconds)


def command(*words: str) -> str:
    """The line of shell that trains with `words`, by this Python."""
    return " ".join([sys.executable, str(ROOT / "src" / "train.py"), *(f"'{word}'" for word in words)])


def await_that(tell: Callable[[], T], seconds: float = 120) -> T:
    """Waits until `tell` gives anything that is true."""
    over = time.monotonic() + seconds
    while not (value := tell()):
        assert time.monotonic() < over, f"not within {seconds:.0f} s"
        time.sleep(0.1)
    return value


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm whose node is idle; of its processes none is left in the end."""
    if missing := [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_bytes(secrets.token_bytes(128))
    host, user = socket.gethostname().partition(".")[0], getpass.getuser()
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=host, user=user, ports=_free_ports(2)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
    environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
    munge = [
        f"--{name}={folder}/munge{end}" for name, end in [("socket", ""), ("pid-file", ".pid"), ("log-file", ".log")]
    ]
    daemons = [
        ["munged", "--foreground", "--force", *munge, f"--key-file={folder}/key", f"--seed-file={folder}/seed"],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "localhost"],
    ]
    service = Slurm(environment)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for words in daemons:
            with (folder / f"{words[0]}.out").open("wb") as out:
                started.append(subprocess.Popen(words, env=environment, stdout=out, stderr=out, start_new_session=True))
            if words[0] == "munged":
                await_that((folder / "munge").exists, 30)
        await_that(lambda: _is_idle(service), 60)
        yield service
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            service.ask("scancel", f"--user={user}", "--signal=KILL", "--full")
            service.ask("scancel", f"--user={user}")
            await_that(lambda: not service.ask("squeue", "--noheader"), 30)
        for daemon in reversed(started):
            daemon.terminate()
        for daemon in reversed(started):
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        left = _processes(folder)
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    assert not left, "processes of Slurm were left"


def _is_idle(service: Slurm) -> bool:
    try:
        return service.ask("sinfo", "--noheader", "--format=%T") == "idle"
    except subprocess.CalledProcessError:  # the controller is not up yet
        return False


def _processes(folder: Path) -> list[int]:
    """Whatever runs with the configuration in `folder`: daemons, steps and jobs."""
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


def _free_ports(number: int) -> list[int]:
    """Ports that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
