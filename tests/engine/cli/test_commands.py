"""What an answer depends on beside the command line: devices and packages of this machine, and a sweep's every job."""

import pytest

from lab.engine.sweeps.jobs import compose_jobs
from lab.engine.sweeps.space import Space
from lab.engine.utils import machine
from tests.conftest import accepted, refusal

OPTUNA = "hydra/sweeper=optuna"


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("optuna", []),
        ("cmaes", ["hydra/sweeper/sampler=cmaes"]),
        ("scipy", ["hydra/sweeper/sampler=gp"]),
        ("scipy", ["hydra/sweeper/pruner=wilcoxon", "hydra.sweeper.seeds=[0,1,2,3,4]"]),
    ],
)
def test_what_a_sampler_needs_is_named(package: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["-m", OPTUNA, *words, "optimizer.lr=0.1,0.2"]
    accepted(*command)
    monkeypatch.setattr(machine, "has_package", lambda name: name != package)
    answer = refusal(*command)
    assert package in answer.lower()
    assert "pip install -e .[optuna]" in answer


def test_without_optuna_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.engine.config.security.has_package", lambda name: name != "optuna")
    assert "pip install -e .[optuna]" in refusal(OPTUNA)


def test_no_gpu_where_one_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 0)
    assert "0 GPUs" in refusal("trainer=gpu")
    monkeypatch.setattr(machine, "count_gpus", lambda: 1)
    accepted("trainer=gpu")
    for devices in ("2", "[1]"):
        assert "1 GPUs" in refusal("trainer=gpu", f"trainer.devices={devices}")


def test_all_gpus_share_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus in (0, 4):
        monkeypatch.setattr(machine, "count_gpus", lambda gpus=gpus: gpus)
        accepted()
    monkeypatch.setattr(machine, "count_gpus", lambda: 3)
    answer = refusal()
    for part in ("data.batch_size=128", "3", "126", "129"):
        assert part in answer


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_package", lambda package: package != name)
    answer = refusal(f"logger={name}")
    assert f"logger={name}" in answer
    assert f"pip install -e .[{name}]" in answer


def test_the_jobs_of_a_sweep_are_those_that_hydra_makes() -> None:
    made = list(compose_jobs(Space.parse(["data=mnist", "model=mlp,lenet", "optimizer.lr=1e-3,1e-2", "seed=range(2)"])))
    assert len(made) == 8
    cfg, overrides = made[-1]
    assert overrides == ["data=mnist", "model=lenet", "optimizer.lr=0.01", "seed=1"]
    assert cfg.data._target_ == "lab.data.mnist.MNIST"
    assert cfg.model._target_ == "lab.models.lenet.LeNet"
    assert (cfg.optimizer.lr, cfg.seed) == (0.01, 1)


def test_of_a_large_sweep_every_value_is_looked_at() -> None:
    made = list(compose_jobs(Space.parse(["seed=range(20)", "optimizer.lr=1,2,3", "data.num_val=1,2"])))
    assert len(made) == 1 + 19 + 2 + 1
    for key, count in (("seed", 20), ("optimizer.lr", 3), ("data.num_val", 2)):
        assert len({word for _, job in made for word in job if word.startswith(f"{key}=")}) == count


def test_of_an_interval_both_ends_are_looked_at_and_of_a_condition_every_side() -> None:
    words = ["model=lenet,mlp", "optimizer.lr=interval(1e-3,1)", "model.activation=relu,gelu", "seed=range(30)"]
    made = list(compose_jobs(Space.parse(words, when={"model.activation": "model=mlp"})))
    seen = {word for _, job in made for word in job}
    assert {"optimizer.lr=0.001", "optimizer.lr=1.0", "model.activation=gelu", "model=lenet", "seed=29"} <= seen
    assert all(("model=mlp" in job) == any("activation" in word for word in job) for _, job in made)
