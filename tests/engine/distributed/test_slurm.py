"""Jobs of a Slurm started for these tests: warned, put back and gone on with; cancelled; two ranks; arrays; sweeps."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.runs.run import Run
from lab.engine.sweeps.sweep import Sweep
from tests.engine.distributed.test_preemption import RUN
from tests.engine.runs.test_resume import assert_equal, result
from tests.processes import await_end, begin, the_run
from tests.slurm import Slurm, await_that, command, slurm

__all__ = ["slurm"]

pytestmark = pytest.mark.slow

TWO = [*RUN, "trainer=ddp_cpu", "trainer.max_epochs=10"]
LAUNCHERS = pytest.mark.parametrize("launcher", ["exec", "srun"])  # exec: signals reach no command of a shell


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Run:
    folder = tmp_path_factory.mktemp("straight")
    assert await_end(folder, begin(folder, data_dir, *RUN), 250) == 0
    return the_run(folder)


def line(folder: Path, data_dir: Path, launcher: str, words: Sequence[str]) -> str:
    """The line of shell that trains under `folder`."""
    return f"{launcher} {command(*words, f'paths.data_dir={data_dir}', f'paths.log_dir={folder}/logs')}"


def await_word(folder: Path, word: str) -> None:
    """Until the job in `folder` has printed `word`."""
    await_that(lambda: (folder / "out").exists() and word in (folder / "out").read_text())


def await_restart(slurm: Slurm, job: str, number: int) -> None:
    """Until the job has been put back `number` times."""
    await_that(lambda: slurm.state(job)["Restarts"] == str(number))


def warn(slurm: Slurm, job: str, launcher: str, signum: str) -> None:
    """Sends what Slurm sends before the end of the time."""
    slurm.ask("scancel", f"--signal={signum}", *(["--batch"] if launcher == "exec" else []), job)


@LAUNCHERS
def test_a_warned_job_goes_on_with_its_run(
    launcher: str, straight: Run, slurm: Slurm, tmp_path: Path, data_dir: Path
) -> None:
    job = slurm.submit(tmp_path, line(tmp_path, data_dir, launcher, RUN))
    signals = {"exec": ["USR1", "USR2"], "srun": ["USR2"]}[launcher]
    for i, signum in enumerate(signals):
        await_word(tmp_path, f"epoch {5 + 25 * i}/")
        warn(slurm, job, launcher, signum)
        await_word(tmp_path, f"stopped by SIG{signum}")
        await_restart(slurm, job, i + 1)
        assert the_run(tmp_path).status == "preempted"
    slurm.await_state(job, "COMPLETED")
    run = the_run(tmp_path)
    assert run.status == "completed"
    began = [run.metadata, *run.metadata["resumed"]]
    assert [each["jobs"]["slurm"] for each in began] == [{"id": job, "restarts": i} for i in range(len(began))]
    assert len(began) == 1 + len(signals)
    assert_equal(result(straight), result(run))
    assert "Traceback" not in (tmp_path / "err").read_text()


@LAUNCHERS
def test_a_cancelled_job_is_saved_and_not_put_back(launcher: str, slurm: Slurm, tmp_path: Path, data_dir: Path) -> None:
    job = slurm.submit(tmp_path, line(tmp_path, data_dir, launcher, [*RUN, "trainer.max_epochs=2000"]))
    await_word(tmp_path, "epoch 3/")
    slurm.ask("scancel", job)
    assert slurm.await_state(job, "CANCELLED")["Restarts"] == "0"
    await_that(lambda: the_run(tmp_path).status != "running", 15)
    run = the_run(tmp_path)
    assert (run.status, run.metadata["signal"]) == ("preempted", "SIGTERM")
    assert read_checkpoint(run.checkpoint("last"))["epoch"] >= 2


def test_slurm_warns_by_itself(slurm: Slurm, tmp_path: Path, data_dir: Path) -> None:
    words = line(tmp_path, data_dir, "exec", [*RUN, "trainer.max_epochs=2000"])
    job = slurm.submit(tmp_path, words, "--time=60", "--signal=B:USR1@120")
    await_word(tmp_path, "epoch 2/")
    slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=2")  # it looks every 30 s
    await_restart(slurm, job, 1)
    slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    await_word(tmp_path, "resuming from")
    slurm.ask("scancel", job)
    slurm.await_state(job, "CANCELLED")
    assert "stopped by SIGUSR1" in (tmp_path / "out").read_text()


def test_two_tasks_stop_as_one_and_are_put_back_once(slurm: Slurm, tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "straight").mkdir()
    assert await_end(tmp_path / "straight", begin(tmp_path / "straight", data_dir, *TWO), 120) == 0
    folder = tmp_path / "stopped"
    folder.mkdir()
    job = slurm.submit(folder, line(folder, data_dir, "srun", TWO), "--nodes=1", "--ntasks-per-node=2")
    await_word(folder, "epoch 3/")
    warn(slurm, job, "srun", "USR1")
    assert slurm.await_state(job, "COMPLETED")["Restarts"] == "1"
    assert (folder / "out").read_text().count("stopped by SIGUSR1") == 1
    run = the_run(folder)
    assert len(run.metadata["resumed"]) == 1
    assert sorted(path.name for path in (run.dir / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    one, other = result(the_run(tmp_path / "straight")), result(run)
    # A mean over steps and ranks that was begun before the stop is summed in another order: the curve's last digit
    del one["curve"], other["curve"]
    assert_equal(one, other)


def test_a_job_warned_before_its_first_checkpoint_begins_anew(slurm: Slurm, tmp_path: Path, data_dir: Path) -> None:
    job = slurm.submit(tmp_path, line(tmp_path, data_dir, "exec", [*RUN, "trainer.max_epochs=3"]))
    await_that(lambda: list(tmp_path.glob("logs/runs/*/*/run.json")))
    warn(slurm, job, "exec", "USR1")
    slurm.await_state(job, "COMPLETED")
    assert [run.status for run in Run.list(tmp_path / "logs")] == ["completed"], "in its directory"


def test_each_task_of_an_array_has_a_run_of_its_own(slurm: Slurm, tmp_path: Path, data_dir: Path) -> None:
    words = line(tmp_path, data_dir, "exec", [*RUN, "trainer.max_epochs=20"])
    array = slurm.submit(tmp_path, words, "--array=3,4", "--exclusive")  # one after the other
    await_word(tmp_path, "epoch 5/")
    warn(slurm, f"{array}_3", "exec", "USR1")
    for task in (3, 4):
        slurm.await_state(f"{array}_{task}", "COMPLETED")
    runs = Run.list(tmp_path / "logs")
    assert [run.status for run in runs] == ["completed", "completed"]
    assert ["resumed" in run.metadata for run in runs] == [False, True]
    assert runs[0].metadata["jobs"] != runs[1].metadata["jobs"]


def test_of_a_job_with_two_commands_each_goes_on_with_its_own(slurm: Slurm, tmp_path: Path, data_dir: Path) -> None:
    one, two = (line(tmp_path, data_dir, "srun", [*RUN, f"trainer.max_epochs={n}", f"seed={n}"]) for n in (2, 20))
    job = slurm.submit(tmp_path, f"{one} && {two}")
    await_word(tmp_path, "epoch 5/20")
    warn(slurm, job, "srun", "USR1")
    slurm.await_state(job, "COMPLETED")
    seeds = [(run.metadata["seed"], len(run.metadata.get("resumed", []))) for run in Run.list(tmp_path / "logs")]
    assert seeds == [(20, 1), (2, 0)], "what has completed is not trained again"


def jobs_of(slurm: Slurm) -> set[str]:
    """The numbers of the jobs that Slurm has not finished, those of an array as one."""
    return set(slurm.ask("squeue", "--noheader", "--format=%F").split())


@pytest.mark.timeout(900)
def test_jobs_of_a_sweep_are_put_back_and_cancelled(
    straight: Run, slurm: Slurm, tmp_path: Path, data_dir: Path
) -> None:
    """One is warned, one put back, one cancelled: two go on by themselves, and the third when the sweep does."""
    words = [*RUN, "trainer.max_epochs=60,61,120,2", "hydra/launcher=submitit_slurm"]
    process = begin(tmp_path, data_dir, "-m", *words, **slurm.environment)
    array = await_that(lambda: jobs_of(slurm)).pop()

    def sweep() -> Sweep:
        return Sweep.open("latest", tmp_path / "logs")

    def await_epoch(number: int, epoch: int) -> None:
        log = sweep().dir / str(number) / "train.log"
        await_that(lambda: log.exists() and f"epoch {epoch}/" in log.read_text())

    await_epoch(0, 5)
    slurm.ask(
        "scancel", "--signal=USR2", f"{array}_0.0"
    )  # the step: of a job whose array waits, scancel does not return
    await_restart(slurm, f"{array}_0", 1)
    await_epoch(1, 5)
    slurm.ask("scontrol", "requeue", f"{array}_1")
    await_restart(slurm, f"{array}_1", 1)
    await_epoch(2, 5)
    slurm.ask("scancel", f"{array}_2")
    assert await_end(tmp_path, process, 400) == 1
    told = (tmp_path / "err").read_text()
    assert "1 of 4 jobs failed" in told
    assert "job 2: stopped by SIGTERM" in told

    jobs = sweep().jobs
    assert [jobs[n].status for n in range(4)] == ["completed", "completed", "preempted", "completed"]
    assert [len(jobs[n].metadata.get("resumed", [])) for n in range(4)] == [1, 1, 0, 0]
    assert [jobs[n].metadata["jobs"] == jobs[0].metadata["jobs"] for n in (1, 2, 3)] == [False] * 3
    assert_equal(result(straight), result(jobs[0]))

    done = begin(tmp_path, data_dir, "sweep.resume=latest", **slurm.environment)
    assert await_end(tmp_path, done, 250) == 0, (tmp_path / "err").read_text()
    assert [len(jobs[n].metadata.get("resumed", [])) for n in range(4)] == [1, 1, 1, 0]
    assert {jobs[n].status for n in range(4)} == {"completed"}


def test_two_tasks_are_the_ranks_of_a_job(slurm: Slurm, tmp_path: Path, data_dir: Path) -> None:
    words = [*RUN, "trainer=ddp_cpu", "trainer.max_epochs=1", "seed=0,1", "hydra/launcher=submitit_slurm"]
    sizes = ["hydra.launcher.tasks_per_node=2", "hydra.launcher.cpus_per_task=1"]
    process = begin(tmp_path, data_dir, "-m", *words, *sizes, **slurm.environment)
    assert await_end(tmp_path, process, 200) == 0, (tmp_path / "err").read_text()
    jobs = Sweep.open("latest", tmp_path / "logs").jobs
    assert [(run.status, run.config.seed, run.metadata["devices"]) for run in jobs.values()] == [
        ("completed", 0, "2 x cpu"),
        ("completed", 1, "2 x cpu"),
    ]
