"""What a sweep varies: how it is read, drawn, and kept to."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from lab.engine.compat.optuna import AskTellStudy
from lab.engine.config.compose import compose, parse
from lab.engine.sweeps.best import rank
from lab.engine.sweeps.constraints import check_constraints, numbers, parse_constraints
from lab.engine.sweeps.samplers import build_pruner, build_sampler
from lab.engine.sweeps.space import Space, params_to_overrides
from lab.engine.sweeps.sweep import Sweep
from lab.engine.sweeps.validate import check_search
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import CONFIGS

WORDS = [
    "model=mlp,lenet",
    "trainer.max_epochs=3",
    "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "data.batch_size=int(interval(8,64))",
    "seed=range(1,9,3)",
    "model.hidden_sizes=[256],[128,64],[]",
    "model.dropout=range(0,0.5,0.1)",
]
WHEN = {"model.dropout": "model.hidden_sizes=[256],[]", "model.hidden_sizes": "model=mlp"}


def suggest(space: Space, drawn: dict[str, Any]) -> list[str]:
    """The overrides that these values make."""
    trial: Any = FixedTrial(drawn)
    return space.suggest(trial)


def distributions(space: Space) -> dict[str, Any]:
    """What each key is drawn from, where each is drawn."""
    trial: Any = FixedTrial({key: next(iter(p.choices or [p.low])) for key, p in space.parameters.items()})
    for parameter in space.parameters.values():
        parameter.suggest(trial)
    return dict(trial.distributions)


def names(group: str) -> list[str]:
    """Every preset of a group, so that a new one is tried."""
    return sorted(path.stem for path in (CONFIGS / "hydra" / "sweeper" / group).glob("*.yaml"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(optuna.logging.INFO)


def test_a_space_is_read_as_hydra_reads_it() -> None:
    space = Space.parse(WORDS, when=WHEN)
    assert space.fixed == ["trainer.max_epochs=3"]
    assert {key: parameter.text for key, parameter in space.parameters.items()} == {
        word.partition("=")[0]: word.partition("=")[2] for word in WORDS if not word.startswith("trainer")
    }
    assert list(space.parameters).index("model") < list(space.parameters).index("model.hidden_sizes")
    assert distributions(space) == {
        "model": CategoricalDistribution(["mlp", "lenet"]),
        "optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
        "data.batch_size": IntDistribution(8, 64),
        "seed": IntDistribution(1, 7, step=3),
        "model.hidden_sizes": CategoricalDistribution(["[256]", "[128,64]", "[]"]),
        "model.dropout": FloatDistribution(0.0, 0.4, step=0.1),
    }


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,4", [1, 2, 4]),
        ("choice(relu, gelu)", ["relu", "gelu"]),
        ("true,false,null", ["True", "False", "null"]),
        ("'a b','c,d'", ["'a b'", "'c,d'"]),
        ("{a:1},{a:2}", ["{a:1}", "{a:2}"]),
        ("range(3)", [0, 1, 2]),
        ("range(10,0,-4)", [2, 6, 10]),
        ("range(0,1,0.25)", [0.0, 0.25, 0.5, 0.75]),
        ("range(0.1,0.4,0.1)", [0.1, 0.2, 0.3]),
        ("sort(3,1,2)", [1, 2, 3]),
        ("shuffle(3,1,2)", [3, 1, 2]),
        ("tag(int,interval(1,3))", [1, 2, 3]),
        ("tag(log,int(interval(1,3)))", [1, 2, 3]),
    ],
)
def test_every_way_to_write_values(text: str, values: list[Any]) -> None:
    assert Space.parse([f"x={text}"]).grid() == {"x": values}


def test_the_choices_of_a_group_are_found_by_a_pattern() -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert Space.parse(["optimizer=glob(adam*)"]).grid() == {"optimizer": ["adam", "adamw"]}
        with pytest.raises(UserError, match="nothing to choose from"):
            Space.parse(["optimizer=glob(x*)"])


def test_a_file_says_the_same_as_a_command_line() -> None:
    params = {
        "a": "tag(log, interval(1, 2))",
        "b": [1, None, "x y", [1, 2], {"q": True}],
        "c": ["one"],
        "d": 1e-3,
        "e": 3,
    }
    space = Space.parse(["e=4,5", "f=6"], params)
    assert space.parameters["a"].log
    assert list(space.parameters["b"].choices.values()) == ["1", "null", "x\\ y", "[1,2]", "{q:True}"]
    assert list(space.parameters["c"].choices) == ["one"]
    assert list(space.parameters["e"].choices) == [4, 5], "the command line goes before the file"
    assert space.fixed == ["d=0.001", "f=6"]
    for word in params_to_overrides(params):
        assert parse([word])
    with pytest.raises(UserError, match=r"params.optimizer holds keys: write each as one, optimizer.lr"):
        Space.parse([], {"optimizer": {"lr": "1,2"}})


def test_what_is_drawn_is_what_the_override_says() -> None:
    space = Space.parse(WORDS, when=WHEN)
    drawn = {
        "model": "mlp",
        "optimizer.lr": 0.0012345678901234567,
        "data.batch_size": 9,
        "seed": 4,
        "model.hidden_sizes": "[]",
        "model.dropout": 0.30000000000000004,
    }
    overrides = suggest(space, drawn)
    assert sorted(overrides) == [
        "data.batch_size=9",
        "model.dropout=0.3",
        "model.hidden_sizes=[]",
        "model=mlp",
        "optimizer.lr=0.0012345678901234567",
        "seed=4",
    ]
    config = compose([*space.fixed, *overrides])
    assert config.optimizer.lr == drawn["optimizer.lr"]
    assert config.model.hidden_sizes == []


@pytest.mark.parametrize(
    ("drawn", "left_out"),
    [
        ({"model": "mlp", "model.hidden_sizes": "[256]"}, set()),
        ({"model": "mlp", "model.hidden_sizes": "[128,64]"}, {"model.dropout"}),
        ({"model": "lenet"}, {"model.dropout", "model.hidden_sizes"}),
    ],
)
def test_what_depends_on_another_choice_is_left_out(drawn: dict[str, str], left_out: set[str]) -> None:
    space = Space.parse(WORDS, when=WHEN)
    every = {"optimizer.lr": 0.1, "data.batch_size": 8, "seed": 1, "model.dropout": 0.0}
    found = {word.partition("=")[0] for word in suggest(space, every | drawn)}
    assert found == set(space.parameters) - left_out


def test_a_command_line_narrows_a_file() -> None:
    params = {"model": "mlp,lenet,cnn", "model.dropout": "0,0.5", "model.width": "1,2", "model.channels": "[8],[9]"}
    when = {"model.dropout": "model=mlp,cnn", "model.width": "model=lenet", "model.channels": "model=cnn"}
    assert set(Space.parse(["model=lenet"], params, when).parameters) == {"model.width"}
    one = Space.parse(["model=cnn"], params, when)
    assert set(one.parameters) == {"model.dropout", "model.channels"}
    assert not one.conditions
    two = Space.parse(["model=mlp,lenet", "model.width=3"], params, when)
    assert set(two.parameters) == {"model", "model.dropout", "model.width"}
    assert two.fixed == [], "the width is one of LeNet's only, though it does not vary"
    assert "model.width=3" in suggest(two, {"model": "lenet", "model.width": "3"})
    assert suggest(two, {"model": "mlp", "model.dropout": 0}) == ["model=mlp", "model.dropout=0"]


@pytest.mark.parametrize("sampler", names("sampler"))
def test_every_sampler_draws_from_the_space(sampler: str) -> None:
    """Warnings are errors here. A sampler of its own for each trial draws what one for all of them may draw."""
    space = Space.parse(WORDS, when=WHEN)
    if sampler == "grid":
        space = Space.parse(["model=mlp,lenet", "seed=range(3)", "data.batch_size=int(interval(8,9))"])
    sweeper = compose(["hydra/sweeper=optuna", f"hydra/sweeper/sampler={sampler}"], hydra=True).hydra.sweeper
    check_search(sweeper, space, OmegaConf.create({"metric": "val/acc"}))
    directions: Any = ["maximize"] if sampler == "cmaes" else ["maximize", "minimize"]
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="study", storage=storage, directions=directions)
    seen = []
    for number in range(12):
        study = AskTellStudy("study", storage, sampler=build_sampler(sweeper.sampler, space, number))
        trial = study.ask()
        seen.append(tuple(space.suggest(trial)))
        for name, distribution in trial.distributions.items():
            assert distribution == distributions(space)[name]
        study.tell(trial, [float(number)] * len(directions))
    assert len(set(seen)) == 12, "no trial is drawn twice"


@pytest.mark.parametrize("pruner", names("pruner"))
def test_every_pruner_is_made(pruner: str) -> None:
    sweeper = compose(["hydra/sweeper=optuna", f"hydra/sweeper/pruner={pruner}"], hydra=True).hydra.sweeper
    sweeper.seeds = [*range(6)]
    check_search(sweeper, Space.parse(["optimizer.lr=0,1"]), OmegaConf.create({"metric": "val/acc"}))
    made = build_pruner(sweeper.pruner)
    assert isinstance(made, optuna.pruners.BasePruner)


@pytest.mark.parametrize("target", ["os.system", "optuna.create_study", "optuna.samplers.TPESampler.reseed_rng"])
def test_only_optunas_own_are_made(target: str) -> None:
    with pytest.raises(UserError, match="is not allowed"):
        build_sampler(OmegaConf.create({"_target_": target}), Space.parse(["seed=0,1"]))
    with pytest.raises(UserError, match="is not allowed"):
        build_pruner(OmegaConf.create({"_target_": target}))
    inner = OmegaConf.create({"_target_": "optuna.pruners.PatientPruner", "wrapped_pruner": {"_target_": target}})
    with pytest.raises(UserError, match="is not allowed"):
        build_pruner(inner)


@pytest.mark.parametrize(
    ("text", "figure", "fits"),
    [
        ("cost/epochs <= 3", 3, True),
        ("cost/epochs <= 3", 3.5, False),
        ("cost/epochs < 3", 3, False),
        ("cost/epochs<3", 2.9, True),
        ("cost/epochs >= 3", 3, True),
        ("cost/epochs > 3", 3, False),
        ("cost/epochs > -1e-3", 0, True),
        ("cost/epochs <= 3", float("nan"), False),
    ],
)
def test_a_constraint_is_kept_or_broken(text: str, figure: float, fits: bool) -> None:
    [constraint] = parse_constraints([text])
    assert (constraint.violation({"cost/epochs": figure}) <= 0) == fits
    assert not constraint.is_early
    assert constraint.violation({}) <= 0, "of a run that was pruned before it had the figure"


def test_a_constraint_on_the_config_is_known_before_training() -> None:
    configs = [compose(["model=cnn"]), compose(["model=lenet", "model.width=3"])]
    constraints = parse_constraints(["model.width <= 2", "data.batch_size >= 32"])
    check_constraints(constraints, configs)
    assert all(constraint.is_early for constraint in constraints)
    assert [[c.violation(numbers(config)) > 0 for c in constraints] for config in configs] == [
        [False, False],  # a model without a width keeps to it
        [True, False],
    ]


def test_a_job_that_breaks_a_constraint_is_no_winner(tmp_path: Path) -> None:
    sweeper = {"constraints": ["cost/parameters <= 100", "model.width <= 2", "val/loss < 1"]}
    record = {"objectives": [{"metric": "val/acc", "mode": "max"}], "hydra": {"sweeper": sweeper}}
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    for number, (acc, parameters, width) in enumerate([(0.9, 500, 1), (0.7, 100, 1), (0.85, 50, 4), (0.8, 50, 2)]):
        hydra = tmp_path / str(number) / ".hydra"
        hydra.mkdir(parents=True)
        (hydra / "config.yaml").write_text(f"model: {{width: {width}}}\noptimizer: {{lr: {acc}}}")
        (hydra / "overrides.yaml").write_text(f"[seed=0, model.width={width}, optimizer.lr={acc}]")
        (hydra.parent / "run.json").write_text('{"status": "completed"}')
        (hydra.parent / "metrics.json").write_text(json.dumps({"val/acc": acc, "cost/parameters": parameters}))
    sweep = Sweep(tmp_path)
    assert [run.dir.name for [run] in rank(sweep, sweep.objectives[0])] == ["3", "1"]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ("cost/epochs <= 3", "expected a list"),
        (["cost/epochs"], "expected NAME <= NUMBER"),
        (["cost/epochs <= many"], "expected NAME <= NUMBER"),
        (["cost/epochs == 3"], "expected NAME <= NUMBER"),
        (["test/acc > 0.9"], "there are cost/epochs"),
    ],
)
def test_what_is_no_constraint_is_refused(texts: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_constraints(texts)
