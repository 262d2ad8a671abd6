"""What a sweep that goes on takes from its `sweep.json`, which may come from elsewhere, and what it does not."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lab.engine.config.compose import compose
from lab.engine.sweeps.resume import check_same, check_stored, sweep_config, sweep_metadata
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils.errors import UserError
from lab.engine.utils.formats import FORMAT
from lab.engine.utils.machine import has_package

OPTUNA = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=3", "model=mlp"]
SPACE = ["optimizer.lr=interval(1e-4,1e-1)"]


def begun(directory: Path, *overrides: str, **more: Any) -> Sweep:
    """A sweep of these overrides, as it records itself; some of it replaced."""
    directory.mkdir()
    task = [word for word in overrides if not word.startswith("hydra")]
    hydras = [word for word in overrides if word.startswith("hydra")]
    config = compose(hydras, hydra=True)
    sweep = Sweep(directory)
    sweep.update(format=FORMAT, sweeper="optuna", **sweep_metadata(config, task) | more)
    return sweep


def continued(sweep: Sweep, *overrides: str) -> Any:
    """The config and the overrides of the sweep that goes on with it."""
    here = [f"sweep.resume={sweep.dir}", f"hydra.sweep.dir={sweep.dir}", "hydra/sweeper=optuna"]
    return sweep_config(compose([*here, *overrides], hydra=True))


def test_a_sweep_goes_on_with_what_it_recorded(tmp_path: Path) -> None:
    sweep = begun(tmp_path / "sweep", *OPTUNA, *SPACE)
    config, overrides = continued(sweep, "hydra.sweeper.n_trials=9")
    assert overrides == ["model=mlp", *SPACE]
    assert config.hydra.sweeper.n_trials == 9
    assert config.hydra.sweeper.sampler._target_ == "optuna.samplers.RandomSampler"
    assert check_same(sweep, config, overrides, asked=True)
    config, overrides = continued(sweep, "model=lenet")
    with pytest.raises(UserError, match=r"model\._target_"):
        check_same(sweep, config, overrides, asked=True)
    config, overrides = continued(sweep, "hydra/sweeper/sampler=tpe")
    with pytest.raises(UserError, match="RandomSampler then"):
        check_same(sweep, config, overrides, asked=True)
    with pytest.raises(UserError, match="holds a sweep already"):
        check_same(sweep, config, overrides, asked=False)


@pytest.mark.parametrize(
    "override",
    [
        "--experimental-rerun=evil.pickle",
        "-cd=/tmp",
        "hydra.launcher.setup=[touch canary]",
        "++hydra.callbacks.evil._target_=os.system",
        "hydra/job_logging=evil",
        "hydra@x=1",
        "~hydra.callbacks",
        "resume=elsewhere",
        "attach=elsewhere",
        3,
    ],
)
def test_a_stored_override_is_about_a_job_s_config_alone(override: Any, tmp_path: Path) -> None:
    sweep = begun(tmp_path / "sweep", *OPTUNA, *SPACE)
    with pytest.raises(UserError, match="not taken from a file"):
        check_stored(sweep, ["seed=1", override])
    sweep.update(overrides=["seed=1", override])
    with pytest.raises(UserError, match="not taken from a file"):
        continued(sweep)


@pytest.mark.skipif(not has_package("hydra_plugins.hydra_submitit_launcher"), reason="needs the extra submitit")
def test_of_a_launcher_comes_back_what_runs_nothing(tmp_path: Path) -> None:
    settings = {
        "partition": "gpu",
        "timeout_min": 7,
        "qos": "x\ntouch canary",
        "account": "$(touch canary)",
        "setup": ["touch canary"],
        "additional_parameters": {"wrap": "touch canary"},
        "_target_": "os.system",
        "unknown": 1,
    }
    launcher = {"choice": "submitit_slurm", "settings": settings}
    sweep = begun(tmp_path / "sweep", *OPTUNA, *SPACE, launcher=launcher)
    before = compose(["hydra/launcher=submitit_slurm"], hydra=True).hydra.launcher
    config, _ = continued(sweep, "hydra/launcher=submitit_slurm")
    now: Any = OmegaConf.to_container(config.hydra.launcher, resolve=False)
    then: Any = OmegaConf.to_container(before, resolve=False)
    assert now == then | {"partition": "gpu", "timeout_min": 7}
    config, _ = continued(sweep, "hydra/launcher=submitit_slurm", "hydra.launcher.partition=cpu")
    assert config.hydra.launcher.partition == "cpu"
    config, _ = continued(sweep, "hydra/launcher=gpu_pool")
    assert "partition" not in config.hydra.launcher


def test_what_runs_something_is_not_even_recorded(tmp_path: Path) -> None:
    typed = ["hydra/launcher=gpu_pool", "hydra.launcher.jobs_per_device=2", "+hydra.launcher.setup=x"]
    record = begun(tmp_path / "sweep", *OPTUNA, *SPACE, *typed).metadata
    assert record["launcher"]["choice"] == "gpu_pool"
    assert record["launcher"]["settings"]["jobs_per_device"] == 2
    assert "setup" not in record["launcher"]["settings"]
