"""What Hydra sees of a command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lab.engine.analysis.run_record import find_runs
from lab.engine.cli.arguments import hydra_arguments
from lab.engine.config import compose
from lab.engine.config.compose import parse
from lab.engine.config.overrides import to_override
from lab.engine.distributed import rendezvous
from lab.engine.runs.run import Run
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.errors import UserError
from lab.engine.utils.formats import FORMAT
from lab.engine.utils.paths import CONFIGS
from tests.conftest import Command, choices

EVIL = "--experimental-rerun=evil.pickle"


def put(path: Path, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT} | content))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run from elsewhere."""
    directory = tmp_path / "logs" / "runs" / "2026-11-26" / "it's"
    put(directory / "run.json", status="preempted")
    (directory / ".hydra").mkdir()
    (directory / ".hydra" / "config.yaml").write_text("seed: 1\n")
    (directory / ".hydra" / "overrides.yaml").write_text(f"['{EVIL}', 'seed=3']")
    (directory / "checkpoints").mkdir()
    (directory / "checkpoints" / "last.ckpt").touch()
    return directory


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    directory = tmp_path / "logs" / "sweeps" / "2026-11-26" / "a"
    put(
        directory / "sweep.json", started="now", sweeper="optuna", overrides=[EVIL], argv=[EVIL],
        launcher={"choice": "joblib", "settings": {"n_jobs": 2}},
    )  # fmt: skip
    return directory


def values(arguments: list[str]) -> dict[str, Any]:
    """What Hydra reads of them."""
    return {o.key_or_group: o.value() for o in parse([word for word in arguments if not word.startswith("-")])}


def test_most_command_lines_are_as_they_were_typed() -> None:
    for typed in ([], ["model=mlp", "--cfg", "job"], ["-m", "seed=0,1"], ["--help"]):
        assert hydra_arguments(typed, {}) == typed
    assert hydra_arguments(["seed=1", "resume=null"], {}) == ["seed=1"]


def test_choices_of_other_folders_are_known_where_logs_are_looked_for(tmp_path: Path) -> None:
    """A requeued job of Slurm, a sweep that goes on."""
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    path = tmp_path / "own" / "experiment" / "mine.yaml"
    path.write_text(f"# @package _global_\npaths: {{log_dir: {tmp_path}/logs}}\n")
    put(tmp_path / "logs" / "sweeps" / "2026-11-26" / "a" / "sweep.json", started="now", sweeper="grid")
    requeued = {"SLURM_RESTART_COUNT": "1", "SLURM_JOB_ID": "3"}
    for way in (["--config-dir", f"{tmp_path}/own"], [f"hydra.searchpath=[file://{tmp_path}/own]"]):
        typed = [*way, "experiment=mine"]
        assert hydra_arguments(typed, requeued) == typed
        assert f"{tmp_path}/logs/sweeps" in hydra_arguments([*typed, "sweep.resume=latest"], {})[-1]


def test_a_resumed_run_is_its_directory_and_what_is_given_anew(run: Path) -> None:
    words = ["trainer.max_epochs=9", "model.name='it\\'s'", "hydra.verbose=true", "optimizer.lr=${oc.env:LR}"]
    seen = values(hydra_arguments([f'resume="{run}"', *words], {}))
    assert seen == {
        "resume": str(run),
        "hydra.run.dir": str(run),
        "hydra.output_subdir": None,
        "hydra.verbose": True,
        "changes": ["trainer.max_epochs=9", "model.name='it\\'s'", "optimizer.lr=${oc.env:LR}"],
    }
    for asked in (f"resume={run}", "+resume=latest"):
        (run.parents[2] / "latest").unlink(missing_ok=True)
        (run.parents[2] / "latest").symlink_to(run)
        seen = values(hydra_arguments([asked, f"paths.log_dir={run.parents[2]}"], {}))
        assert seen["resume"] == str(run)
        assert seen["paths.log_dir"] == str(run.parents[2])
        assert "seed" not in seen


def test_an_attached_process_is_told_its_directory_alone(run: Path) -> None:
    here = {"attach": str(run), "hydra.run.dir": str(run), "hydra.output_subdir": None}
    assert values(hydra_arguments([f"attach={run}"], {})) == here
    assert values(hydra_arguments([f"attach={run}"], {"LOCAL_RANK": "2"})) == here, "one train.log"
    with pytest.raises(UserError, match="takes no other argument"):
        hydra_arguments([f"attach={run}", "seed=1"], {})


def test_resume_auto_goes_on_or_begins(run: Path, tmp_path: Path) -> None:
    here = [f"hydra.run.dir={tmp_path}"]
    assert hydra_arguments(["resume=auto", *here], {}) == here
    assert values(hydra_arguments(["resume=auto", f'hydra.run.dir="{run}"'], {}))["resume"] == str(run)


def test_a_sweep_that_goes_on_is_its_directory_and_its_kinds(sweep: Path) -> None:
    here = {"sweep.resume": str(sweep), "hydra.sweep.dir": str(sweep), "hydra/sweeper": "optuna"}
    arguments = hydra_arguments([f"sweep.resume={sweep}"], {})
    assert arguments[0] == "--multirun"
    assert values(arguments) == here | {"hydra/launcher": "joblib"}
    arguments = hydra_arguments(["-m", "seed=0,1", f"sweep.resume={sweep}", "hydra/launcher=gpu_pool"], {})
    assert [word for word in arguments if word.startswith("-")] == ["--multirun"]
    assert {k: v for k, v in values(arguments).items() if k != "seed"} == here | {"hydra/launcher": "gpu_pool"}
    put(sweep / "sweep.json", sweeper="grid", launcher={"choice": "../../evil"})
    assert values(hydra_arguments([f"sweep.resume={sweep}"], {})) == here | {"hydra/sweeper": "grid"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "resume={run}"], "leave out -m"),
        (["--cfg", "job", "resume={run}"], "leave out --cfg"),
        (["resume={run}", "hydra.run.dir=elsewhere"], "leave out hydra.run.dir"),
        (["resume={run}s"], "did you mean"),
        (["attach=nowhere"], "no run directory"),
        (["sweep.resume={sweep}", "hydra/sweeper=grid"], "this sweep has hydra/sweeper=optuna, not grid"),
        (["sweep.resume={sweep}", "hydra.sweep.dir=elsewhere"], "leave out hydra.sweep.dir"),
        (["sweep.resume={run}"], "is no sweep"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], said: str, run: Path, sweep: Path) -> None:
    with pytest.raises(UserError, match=said):
        hydra_arguments([word.format(run=run, sweep=sweep) for word in words], {})


def test_what_an_older_version_wrote_is_refused_with_the_commit_that_reads_it(run: Path, sweep: Path) -> None:
    (run / "run.json").write_text('{"status": "completed"}')
    (sweep / "sweep.json").write_text('{"sweeper": "nothing"}')
    for words in ([f"resume={run}"], [f"sweep.resume={sweep}"]):
        with pytest.raises(UserError, match="3b74302") as caught:
            hydra_arguments(words, {})
        assert len(str(caught.value).splitlines()) == 1


def test_a_command_that_slurm_starts_again_goes_on_with_what_it_had_begun(run: Path) -> None:
    words = ["model=mlp", f"paths.log_dir={run.parents[2]}"]
    begun = {"argv": ["-u", "src/train.py", *words], "status": "preempted"}
    put(run / "run.json", **begun, jobs={"slurm": {"id": "7", "restarts": 0}})
    again = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}
    assert values(hydra_arguments(words, again))["resume"] == str(run)
    for other in ({"SLURM_JOB_ID": "8"}, {"SLURM_RESTART_COUNT": "0"}):
        assert "resume" not in values(hydra_arguments(words, again | other))
    assert "resume" not in values(hydra_arguments([*words, "seed=1"], again))
    put(run / "run.json", **begun, jobs={"slurm": {"id": "7", "restarts": 1}})
    assert "resume" not in values(hydra_arguments(words, again)), "the job has begun it this time"
    put(run / "run.json", **begun | {"status": "completed"}, jobs={"slurm": {"id": "7", "restarts": 0}})
    seen = values(hydra_arguments(words, again))
    assert (seen["resume"], seen["hydra.run.dir"]) == ("auto", str(run)), "it is not trained twice"


def test_a_command_that_torchrun_starts_again_goes_on_with_what_it_had_begun(run: Path) -> None:
    words = ["model=mlp", f"paths.log_dir={run.parents[2]}"]
    begun = {"argv": ["src/train.py", *words], "jobs": {"torchrun": {"id": "mine", "restarts": 0}}}
    again = {"TORCHELASTIC_RUN_ID": "mine", "TORCHELASTIC_RESTART_COUNT": "1", "RANK": "0"}
    put(run / "run.json", **begun, status="failed")
    assert values(hydra_arguments(words, again))["resume"] == str(run)
    joined = again | {"TORCHELASTIC_RESTART_COUNT": "0"}  # a node has come or gone
    assert values(hydra_arguments(words, joined))["resume"] == str(run)
    assert "resume" not in values(hydra_arguments(words, again | {"TORCHELASTIC_RUN_ID": "other"}))
    put(run / "run.json", **begun, status="completed")
    assert "resume" not in values(hydra_arguments(words, joined)), "the same name, used again"
    assert values(hydra_arguments(words, again))["resume"] == "auto"


def test_weights_are_the_file_that_is_meant_when_the_command_is_typed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    last, best = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt"
    with pytest.raises(UserError, match=r"best\.ckpt: no such file; did you mean last\.ckpt"):
        hydra_arguments([f'weights="{run}"'], {})
    best.touch()
    (tmp_path / "logs" / "latest").symlink_to(run)
    here = f"paths.log_dir={tmp_path}/logs"
    for typed, meant in {
        "weights=latest": best,
        "weights.path=latest": best,
        f'weights="{run}"': best,
        "weights=logs/latest": best,  # is another run as soon as this one begins
        f'weights="{last}"': last,
        "weights=null": None,
        "weights='${oc.env:WEIGHTS}'": "${oc.env:WEIGHTS}",
    }.items():
        assert values(hydra_arguments([typed, here], {}))["weights.path"] == (str(meant) if meant else None)
    [argument] = hydra_arguments([f'weights="{last}",logs/latest'], {})
    assert [*parse([argument])[0].sweep_string_iterator()] == [to_override(str(last)), to_override(str(best))]
    assert values(hydra_arguments(["weights={strict:false}"], {})) == {"weights": {"strict": False}}
    for wrong, said in {
        "lates": "did you mean latest",
        "logs/latest/best.ckpt": "no such file",
        "logs": "no run",
    }.items():
        with pytest.raises(UserError, match=f"weights={wrong}.*{said}"):
            hydra_arguments([f"weights={wrong}"], {})


def test_a_command_that_goes_on_by_itself_had_its_latest_weights_before(run: Path) -> None:
    words = ["weights=latest", f"paths.log_dir={run.parents[2]}"]
    (run.parents[2] / "latest").symlink_to(run)
    put(run / "run.json", jobs={"slurm": {"id": "7", "restarts": 0}}, argv=["src/train.py", *words], status="preempted")
    here = f"hydra.run.dir={to_override(str(run))}"
    for arguments, environ in (
        (words, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}),
        ([*words, "resume=auto", here], {}),
    ):
        seen = values(hydra_arguments(arguments, environ))
        assert seen["resume"] == str(run)
        assert seen["changes"] == words[1:]


def test_a_rank_beside_the_first_waits_for_its_directory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "await_run_dir", lambda: run)
    for environ in ({"RANK": "3", "WORLD_SIZE": "4"}, {"SLURM_PROCID": "3"}):
        seen = values(hydra_arguments(["seed=1"], environ))
        assert seen["hydra.output_subdir"] is None
        assert seen["hydra.run.dir"] == seen["attach"] == str(run)
    with pytest.raises(UserError, match="torchrun"):
        hydra_arguments(["-m", "seed=1,2"], {"RANK": "1"})


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_nothing_stored_becomes_a_flag(kind: str, run: Path, sweep: Path, canary: Path, train_command: Command) -> None:
    """At 3b74302 the pickle that a stored `--experimental-rerun=` names was run."""
    import pickle

    from tests.engine.config.test_security import Touch

    pickle_file = run.parent / "evil.pickle"
    pickle_file.write_bytes(pickle.dumps(Touch(canary)))
    evil = f"--experimental-rerun={pickle_file}"
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps([evil]))
    put(sweep / "sweep.json", sweeper="grid", overrides=[evil], argv=[evil], words=[evil], jobs=[[evil]])
    asked = {"run": f'resume="{run}"', "sweep": f"sweep.resume={sweep}"}[kind]
    answer = train_command(asked, timeout=60)
    assert answer.returncode in (1, 2)
    assert not canary.exists()


def test_latest_is_looked_for_where_files_say_that_runs_lie(
    run: Path, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_dir, configs = tmp_path / "logs", tmp_path / "configs"
    (log_dir / "latest").symlink_to(run)
    shutil.copytree(CONFIGS, configs)
    (configs / "experiment" / "mine.yaml").write_text(f"# @package _global_\npaths: {{log_dir: {log_dir}}}\n")
    monkeypatch.setattr(compose, "CONFIGS", configs)
    for arguments in (["experiment=mine"], ["experiment=mine", "optimizer.momentum=0.5"]):
        assert values(hydra_arguments(["resume=latest", *arguments], {}))["resume"] == str(run)
    assert values(hydra_arguments(["sweep.resume=latest", "experiment=mine"], {}))["sweep.resume"] == str(sweep)

    path = configs / "paths" / "default.yaml"
    path.write_text(path.read_text().replace("${.root_dir}/logs", str(log_dir)))
    assert values(hydra_arguments(["resume=latest"], {}))["resume"] == str(run)
    assert Run.open("latest").dir == run
    assert [found.dir for found in Run.list()] == [run]
    assert Sweep.open("latest").dir == sweep
    assert [found.dir for found in find_runs(["latest"])] == [run]
    debug = [(f"debug={name}", "logs/debug") for name in choices("debug")]  # which leaves the latest run alone
    for elsewhere, where in (("paths.log_dir='${paths.root_dir}/other'", "other"), *debug):
        with pytest.raises(UserError, match=f"no run under {tmp_path}/{where} yet"):
            hydra_arguments(["resume=latest", f"paths.root_dir={tmp_path}", elsewhere], {})
