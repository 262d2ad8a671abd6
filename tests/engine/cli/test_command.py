"""What Hydra will compose is judged before Hydra acts."""

import ast
from importlib.resources import files
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from lab.engine.cli import command
from lab.engine.cli.command import check_command
from lab.engine.cli.flags import parse_flags
from lab.engine.config.compose import compose
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import ROOT

EVIL = "# @package _global_\nhydra: {callbacks: {evil: {_target_: builtins.open, file: CANARY, mode: w}}}\n"


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    """A folder of configs from elsewhere, with a hostile experiment and a harmless one."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text(EVIL.replace("CANARY", str(tmp_path / "canary")))
    (tmp_path / "experiment" / "good.yaml").write_text("# @package _global_\nseed: 3\n")
    return tmp_path


ASKED = [[], ["-m"], ["--help"], ["--hydra-help"], ["--cfg", "job"], ["--info=all"]]


@pytest.mark.parametrize("flags", ASKED, ids=" ".join)
def test_a_hostile_node_is_refused_whatever_is_asked_for(flags: list[str], config_dir: Path, canary: Path) -> None:
    evil = ["+experiment=evil"] if flags == ["--hydra-help"] else ["experiment=evil"]
    for given in (["--config-dir", str(config_dir)], ["-cd", str(config_dir)]):
        with pytest.raises(UserError, match=r"hydra\.callbacks\.evil"):
            check_command([*flags, *given, *evil])
    with pytest.raises(UserError, match=r"hydra\.callbacks\.evil"):
        check_command([*flags, f"hydra.searchpath=[file://{config_dir}]", *evil])


def test_a_job_of_a_sweep_is_judged_before_the_first_is_trained(config_dir: Path, canary: Path) -> None:
    with pytest.raises(UserError, match=r"hydra\.callbacks\.evil"):
        check_command(["-m", "--config-dir", str(config_dir), "experiment=good,evil"])


def test_a_friendly_folder_of_configs_is_read(config_dir: Path, tmp_path: Path) -> None:
    here = ["--config-dir", str(config_dir), f"paths.log_dir={tmp_path}/logs"]
    check_command([*here, "experiment=good", "optimizer.lr=1e-3"])
    check_command(["-m", *here, "experiment=good", "seed=1,2"])
    assert not (tmp_path / "logs").exists()
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(UserError, match="did you mean good"):
        check_command([*here, "experiment=goood"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cfg", "job", "--info"], "only one of"),
        (["--resolve"], "--resolve goes with"),
        (["--config-dir", "/nowhere"], "--config-dir: /nowhere"),
        (["--config-path", "/nowhere"], "--config-path: /nowhere"),
        (["-cn", "trian"], "did you mean train"),
        (["--experimental=x"], "would load a pickle"),
        (["--e", "x"], "would load a pickle"),
    ],
)
def test_wrong_flags(arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_command(arguments)


def test_flags_are_parsed_as_hydra_does() -> None:
    flags = parse_flags(["-cd", "x", "--multirun", "model=mlp,lenet", "seed=0"])
    assert (flags.config_dir, flags.multirun, flags.overrides) == ("x", True, ["model=mlp,lenet", "seed=0"])
    with pytest.raises(SystemExit) as end:
        parse_flags(["--version"])
    assert not end.value.code


def test_a_single_run_is_composed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lab.engine.config import compose as composing

    composed = []

    def count(*args: object, **kwargs: object) -> object:
        composed.append(args)
        return composing.compose(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "compose", count)
    check_command(["model=mlp", "optimizer.lr=1e-2", f"paths.log_dir={tmp_path}"])
    assert len(composed) == 1


@pytest.mark.parametrize("key", ["paths.log_dir", "hydra.run.dir"])
def test_a_directory_that_cannot_be_made_is_told_of(key: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{tmp_path}/file is no folder"):
        check_command([f"paths.log_dir={tmp_path}", f"{key}={tmp_path}/file/logs"])


def test_a_directory_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "completed"}')
    for directory in (tmp_path, "${paths.log_dir}"):
        with pytest.raises(UserError, match=f"holds a run already: resume it with resume={tmp_path}"):
            check_command([f"paths.log_dir={tmp_path}", f"hydra.run.dir={directory}"])


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
def test_what_stands_where_the_link_to_the_latest_run_goes_is_not_lost(sweep: list[str], tmp_path: Path) -> None:
    words = [*sweep, f"paths.log_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run"]
    (tmp_path / "latest").symlink_to("gone")
    check_command(words)
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}/latest .*paths.log_dir"):
        check_command(words)
    check_command([word.replace(f"paths.log_dir={tmp_path}", f"paths.log_dir={tmp_path}/new") for word in words])


BROKEN = {
    "tag": "seed: !foo 1\n", "alias": "seed: &a [*a]\n", "latin": "seed: caf\xe9\n", "unclosed": "seed: ${nope\n",
    "choice": "defaults: [override /model: mlpp]\n", "null_target": "model: {_target_: null}\n",
}  # fmt: skip


@pytest.mark.parametrize("multirun", [False, True])
@pytest.mark.parametrize(
    ("name", "words"),
    [("tag", "!foo"), ("alias", "part of itself"), ("latin", "UTF-8.*xe9"), ("unclosed", "seed"), ("choice", "mlpp"),
     ("null_target", "model has no _target_")],
)  # fmt: skip
def test_a_broken_config_file_is_answered_in_few_lines(name: str, words: str, multirun: bool, tmp_path: Path) -> None:
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / "good.yaml").write_text("# @package _global_\nseed: 3\n")
    (folder / "broken.yaml").write_bytes(f"# @package _global_\n{BROKEN[name]}".encode("latin-1"))
    typed = ["-m", "experiment=good,broken"] if multirun else ["experiment=broken"]
    with pytest.raises(UserError, match=f"(?s){words}") as told:
        check_command(["--config-dir", f"{tmp_path}/own", *typed, f"paths.log_dir={tmp_path}/logs"])
    assert len(str(told.value).splitlines()) <= 6
    assert not multirun or "experiment=broken" in str(told.value)


def test_argv_is_assigned_once() -> None:
    assigned = []
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("scripts/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AugAssign):
                targets = [node.target]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                targets = [node.func.value]
            assigned += [str(path.relative_to(ROOT)) for t in targets if ast.unparse(t).startswith("sys.argv")]
    assert assigned == ["src/train.py"]


@pytest.mark.parametrize("choice", ["none", "disabled", "stdout"])
def test_hydras_own_ways_of_logging_are_taken_as_they_are(choice: str) -> None:
    [path] = (Path(str(files("hydra.conf"))) / "hydra" / "job_logging").glob(f"{choice}.yaml")
    config = compose([f"hydra/job_logging={choice}"], hydra=True)
    assert OmegaConf.to_container(config.hydra.job_logging) == OmegaConf.to_container(OmegaConf.load(path))
