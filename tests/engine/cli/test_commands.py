"""Every wrong command line gets a short answer before torch is imported, and right ones get none."""

from pathlib import Path

import pytest

from lab.engine.cli.command import check_sweep
from lab.engine.config.compose import compose, parse
from lab.engine.config.validate import validate
from lab.engine.sweeps.space import Space
from lab.engine.sweeps.validate_jobs import jobs
from lab.engine.sweeps.validate_sweeper import check_optuna
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError
from tests.conftest import Compose, run_script

WRONG = [
    # names that are not there
    (["modle=mlp"], ["modle: no such key", "did you mean model?"]),
    (["model=lenett"], ["model=lenett", "did you mean lenet?", "choices:"]),
    (["experiment=mnist_lenett"], ["experiment=mnist_lenett", "did you mean mnist_lenet?"]),
    (["callbacks=early_stoping"], ["callbacks=early_stoping", "did you mean early_stopping?"]),
    (["logger=tensorbord"], ["logger=tensorbord", "did you mean tensorboard?"]),
    (["debug=overfitt"], ["debug=overfitt", "did you mean overfit?"]),
    (["-m", "sweep=lrr"], ["sweep=lrr", "did you mean lr?"]),
    (["hydra/launcher=basik"], ["hydra/launcher=basik", "did you mean basic?"]),
    (["optimizer.lrr=1"], ["optimizer.lrr", "did you mean optimizer.lr?"]),
    (["hydra.run.dirr=x"], ["hydra.run.dirr", "did you mean hydra.run.dir?"]),
    (["callbacks.early_stopping.patience=3"], ["callbacks.early_stopping"]),
    (["++trainer.max_epoch=3"], ["trainer.max_epoch", "did you mean max_epochs?"]),
    (["+model.chanels=[1,2]"], ["model.chanels", "did you mean channels?"]),
    (["+optimizer.momentun=0.9", "optimizer=sgd"], ["optimizer.momentun", "did you mean momentum?"]),
    (["+new.key=1"], ["+new.key: nobody reads this key"]),
    (["+sead=1"], ["+sead: nobody reads this key", "did you mean seed?"]),
    (["+callbacks.mine.patience=1"], ["callbacks.mine has no _target_"]),
    (["+callbacks.mine._target_=lab.callbacks.progress.Progres"], ["progress.Progres", "did you mean Progress?"]),
    (["+callbacks.mine._target_=nowhere.Callback"], ["nowhere.Callback is not allowed"]),
    (["~data.batch_size"], ["data.batch_size", "needs one"]),
    (["~model"], ["~model: every run has one"]),
    (["~dims.image"], ["model=lenet does not fit data=digits", "dims.image", "data that fits lenet: "]),
    (["model=lenet", "model=mlp"], ["model is chosen twice", "model=lenet", "model=mlp"]),
    # values of another type
    (["optimizer.lr=abc"], ["optimizer.lr=abc", "a number"]),
    (["optimizer.lr="], ["optimizer.lr=", "a number"]),
    (["optimizer.betas=[0.9,high]"], ["optimizer.betas", "a list of numbers"]),
    (["optimizer.fused=1"], ["optimizer.fused=1", "true or false"]),
    (["data.batch_size=12.5"], ["data.batch_size=12.5", "a whole number"]),
    (["data.batch_size=true"], ["data.batch_size=True", "a whole number"]),
    (["data.num_val=null"], ["data.num_val=None", "expected a whole number"]),
    (["data.num_val=???"], ["data.num_val has no value"]),
    (["data=csv"], ["data.path has no value", "data.path=…"]),
    (["fit=maybe"], ["fit=maybe", "true or false"]),
    (["compile=yes please"], ["compile=yes please", "true or false"]),
    (["seed=null"], ["seed", "expected"]),
    (["seed=-1"], ["seed=-1", "expected a number from 0"]),
    (["model.hidden_sizes=3"], ["model.hidden_sizes=3", "a list"]),
    (["model.hidden_sizes=[120,many]"], ["model.hidden_sizes", "a list of whole numbers"]),
    (["model=rnn", "model.memory=long"], ["model.memory=long", "a whole number"]),
    (["data=adding", "model=rnn_regressor", "data.min_length=1.5"], ["data.min_length=1.5", "a whole number"]),
    (["trainer.max_time=10"], ["trainer.max_time=10", "expected"]),
    (["trainer.max_time=10:00"], ["trainer.max_time=10:00", "days:hours:minutes:seconds"]),
    (["trainer.benchmark=fast"], ["trainer.benchmark=fast", "true or false"]),
    (["trainer.min_epochs=two"], ["trainer.min_epochs=two", "a whole number"]),
    (["hydra.job.chdir=perhaps"], ["hydra.job.chdir=perhaps"]),
    # choices and ranges
    (["model=mlp", "model.activation=rellu"], ["model.activation=rellu", "did you mean relu?"]),
    (["model=rnn", "model.cell=lstmm"], ["model.cell=lstmm", "did you mean lstm?"]),
    (["scheduler.scheduler.anneal_strategy=coz"], ["anneal_strategy"]),
    (["trainer.precision=bf16mixed"], ["trainer.precision=bf16mixed", "did you mean bf16-mixed?"]),
    (["trainer.accelerator=gpuu"], ["trainer.accelerator=gpuu", "did you mean gpu?"]),
    (["trainer.strategy=dpp"], ["trainer.strategy=dpp", "did you mean ddp?"]),
    (["trainer.gradient_clip_algorithm=nrm"], ["gradient_clip_algorithm=nrm", "did you mean norm?"]),
    (["trainer.profiler=simpel"], ["trainer.profiler=simpel", "did you mean simple?"]),
    (["objective.mode=maximum"], ["objective.mode=maximum", "did you mean max?"]),
    (["model=mlp", "model.dropout=2"], ["model.dropout=2", "from 0 to 1 (not itself)"]),
    (["model=mlp", "model.hidden_sizes=[64,0]"], ["model.hidden_sizes=[64, 0]", "1 or more"]),
    (["optimizer.lr=-1"], ["optimizer.lr=-1", "0 or more"]),
    (["optimizer.lr=nan"], ["optimizer.lr=nan", "0 or more"]),
    (["data.batch_size=0"], ["data.batch_size=0", "1 or more"]),
    (["trainer.log_every_n_steps=0"], ["log_every_n_steps=0", "1 or more"]),
    (["trainer.accumulate_grad_batches=0"], ["accumulate_grad_batches=0", "1 or more"]),
    (["trainer.val_check_interval=1.5"], ["val_check_interval=1.5", "a share of them up to 1.0"]),
    (["trainer.limit_train_batches=-3"], ["limit_train_batches=-3", "a whole number of batches"]),
    (["trainer.max_epochs=-2"], ["trainer.max_epochs=-2", "-1 or more"]),
    (["model.channels=[6]"], ["model.channels=[6]", "give two numbers for each"]),
    (["model=vit", "model.patch_size=5"], ["patch_size=5", "tile the image"]),
    (["model=vae", "model.num_samples=5", "model.beta=2"], ["num_samples=5, beta=2"]),
    (["optimizer.betas=[0.9]"], ["optimizer.betas=[0.9]", "expected 2 numbers"]),
    (["trainer.devices=some"], ["trainer.devices=some", "a number, a list of numbers, or auto"]),
    # what does not go together
    (["data.num_val=60000"], ["data.num_val=60000", "less than data.num_samples=60000"]),
    (["trainer=cpu", "trainer.devices=0"], ["trainer.devices=0", "1 or more"]),
    (["trainer=cpu", "trainer.devices=[0]"], ["trainer.devices=[0]", "a number of processes"]),
    (["trainer=cpu", "trainer.precision=16-mixed"], ["trainer.precision=16-mixed", "bf16-mixed"]),
    (["trainer=ddp_cpu", "data.batch_size=33"], ["data.batch_size=33", "2 processes", "32 and 34"]),
    (["trainer=ddp_cpu", "trainer.num_nodes=3"], ["data.batch_size=128", "6 processes", "126 and 132"]),
    (["scheduler=onecycle", "optimizer=lbfgs"], ["LBFGS has no momentum", "scheduler=none"]),
    (["trainer.max_epochs=-1"], ["OneCycle needs an end", "trainer.max_steps"]),
    (["trainer.max_epochs=null", "scheduler=cosine"], ["cosine needs an end"]),
    (["trainer.min_epochs=9", "trainer.max_epochs=3"], ["min_epochs=9 is more than trainer.max_epochs=3"]),
    (["scheduler=plateau", "trainer.limit_val_batches=0"], ["scheduler watches val/acc", "limit_val_batches=0"]),
    (["callbacks=early_stopping", "trainer.check_val_every_n_epoch=5"], ["early_stopping watches val/acc"]),
    (["trainer.check_val_every_n_epoch=null"], ["val_check_interval must count batches"]),
    (["trainer.val_check_interval=1000"], ["val_check_interval=1000", "429 batches"]),
    (["trainer.enable_progress_bar=false"], ["callbacks.progress is a Progress", "callbacks.progress=null"]),
    (["logger.tensorboard=null"], ["callbacks.learning_rate has no logger", "logger=none"]),
    (["fit=false", "test=false"], ["nothing is left to do"]),
    (["data=text", "model=gpt", "data.path=README.mdd"], ["README.mdd: no such file", "did you mean README.md?"]),
    (["model=gpt"], ["model=gpt does not fit data=digits", "data that fits gpt: "]),
    (["paths.log_dir=/dev/null/logs"], ["/dev/null", "paths.log_dir"]),
    (["trainer.accelerator=tpu"], ["trainer.accelerator=tpu", "this machine has none"]),
    (["+trainer.callbacks=[]"], ["trainer.callbacks", "callbacks.NAME"]),
    # the command line itself
    (["model=null"], ["model=null: expected the name of a choice"]),
    (["=3"], ["expected the name of a choice"]),
    (["trainer={a:1}"], ["trainer.a: no such key"]),
    (["--experimental-rerun", "x"], ["would load a pickle"]),
    (["foo"], ["'foo'", "key=value"]),
    (["model.hidden_sizes=[1"], ["no override"]),
    (["data.target='a"], ["no override"]),
    (["--nope"], ["--nope: no such flag"]),
    (["--mutlirun"], ["--mutlirun: no such flag", "did you mean --multirun?"]),
    (["--cfg", "jobb"], ["--cfg", "jobb", "'job'"]),
    (["--config-name", "nope"], ["nope", "train"]),
    (["seed=0,1"], ["seed=0,1", "--multirun"]),
    (["seed=range(3)"], ["seed=range(3)", "--multirun"]),
    (["seed=0", "-m", "model=mlp,cnn"], ["model=mlp,cnn", "flags first"]),
    # sweeps, before their first job
    (["-m", "model=mlp,lenett"], ["model=lenett", "did you mean lenet?"]),
    (["-m", "optimizer.lrr=1,2"], ["optimizer.lrr", "did you mean optimizer.lr?"]),
    (["-m", "optimizer.lr=1e-3,1e-2,fast"], ["optimizer.lr=fast", "a number"]),
    (["-m", "data.batch_size=32,64,0"], ["data.batch_size=0", "1 or more"]),
    (["-m", "trainer=ddp_cpu", "data.batch_size=32,65"], ["data.batch_size=65", "64 and 66"]),
    (["-m", "seed=range(1,0)"], ["seed=range(1,0): nothing to sweep over"]),
    (["-m", "model=glob(g*)"], ["model=gpt does not fit data=digits"]),
    (["-m", "model=mlp,gpt", "seed=range(3)"], ["model=gpt does not fit data=digits"]),
    (["-m", "seed=0,1,0"], ["seed=0,1,0: 0 stands there twice"]),
    (["-m", "seed=range(0,5,0)"], ["a step of 0 leads nowhere"]),
    (["-m", "seed=choice()"], ["seed=choice(): empty choice"]),
    (["-m", "seed=rnge(3)"], ["Unknown function 'rnge'", "did you mean range?"]),
    (["-m", "model=mlp,vit", "model.activation=relu,gelu"], ["model.activation: no such key with model=vit", "when="]),
    (["-m", "optimizer.lr=interval(0.1,1)"], ["optimizer.lr=interval(0.1,1): interval needs hydra/sweeper=optuna"]),
    (["-m", "sweep=lenet", "hydra/sweeper=grid"], ["optimizer.lr", "interval needs hydra/sweeper=optuna"]),
    (["-m", "seed=0,1", "hydra.sweeper.max_batch_size=0"], ["max_batch_size=0", "1 or more"]),
    (["-m", "seed=0,1", "hydra.sweeper.n_trials=5"], ["hydra.sweeper.n_trials"]),
    (["-m", "hydra/sweeper=optun", "seed=0,1"], ["hydra/sweeper=optun", "did you mean optuna?"]),
    (["-m", "sweep=lenet", "model=mlp"], ["model.width: no such key"]),
    *(
        (["-m", "hydra/sweeper=optuna", *words], said)
        for words, said in [
            # values that cannot be drawn
            ([], ["nothing to draw"]),
            (["optimizer.lrr=interval(1,2)"], ["optimizer.lrr", "did you mean optimizer.lr?"]),
            (["optimizer.lr=interval(1e-1,1e-4)"], ["this interval is empty", "write interval(0.0001, 0.1)"]),
            (["optimizer.lr=interval(0.1,0.1)"], ["this interval is empty", "write optimizer.lr=0.1"]),
            (["optimizer.lr=interval(0.1)"], ["missing a required argument: 'end'"]),
            (["optimizer.lr=interval(0,inf)"], ["two numbers that are finite"]),
            (["optimizer.lr=tag(log,interval(0,1))"], ["a logarithm needs numbers above 0"]),
            (["optimizer.lr=tag(lg,interval(1,2))"], ["no such tag: lg", "did you mean log?"]),
            (["optimizer.lr=tag(log,choice(1,2))"], ["log is for interval(…) and range(…)"]),
            (["optimizer.lr=interval(-1,1)"], ["optimizer.lr=-1.0", "0 or more"]),
            (["model=mlp", "model.dropout=interval(0,2)"], ["model.dropout=2.0", "from 0 to 1"]),
            (["data.batch_size=interval(8,64)"], ["a whole number", "write data.batch_size=int(interval(8,64))"]),
            (["data.batch_size=tag(int,interval(0.5,4))"], ["whole numbers as its ends"]),
            (["data.batch_size=range(8,64,-8)"], ["a step of -8 leads away from 64"]),
            (["trainer.accelerator=cpu,gpuu"], ["trainer.accelerator=gpuu", "did you mean gpu?"]),
            # what hangs on what
            (["model=mlp,cnn", "model.hidden_sizes=[64],[32]"], ["model.hidden_sizes: no such key with model=cnn"]),
            (["seed=0,1", "hydra.sweeper.when={sed:'model=mlp'}"], ["draws no sed", "did you mean seed?"]),
            (["seed=0,1", "hydra.sweeper.when={seed:'modl=mlp'}"], ["neither draws nor sets modl", "give modl=…"]),
            (["seed=0,1", "hydra.sweeper.when={seed:mlp}"], ["expected a key and its values"]),
            (["seed=0,1", "model=mlp,cnn", "hydra.sweeper.when={seed:'model=mlpp'}"], ["no mlpp", "did you mean mlp?"]),
            (["seed=0,1", "model=mlp,cnn", "hydra.sweeper.when={seed:'model=mlp',model:'seed=0'}"], ["a circle"]),
            # its settings
            (["seed=0,1", "hydra.sweeper.n_trialss=5"], ["did you mean hydra.sweeper.n_trials?"]),
            (["seed=0,1", "hydra.sweeper.n_trials=0"], ["n_trials=0", "1 or more"]),
            (["seed=0,1", "hydra.sweeper.n_trials=many"], ["n_trials=many", "a whole number"]),
            (["seed=0,1", "hydra.sweeper.timeout=-1"], ["timeout=-1", "a number above 0"]),
            (["seed=0,1", "hydra.sweeper.max_failure_rate=2"], ["max_failure_rate=2", "from 0 to 1"]),
            (["seed=0,1", "hydra.sweeper.n_jobs=0"], ["n_jobs=0", "1 or more"]),
            (["seed=0,1", "hydra/sweeper/sampler=tpee"], ["sampler=tpee", "did you mean tpe?"]),
            (["seed=0,1", "hydra/sweeper/pruner=asa"], ["pruner=asa", "did you mean asha?"]),
            (["seed=0,1", "hydra.sweeper.sampler=gp"], ["hydra/sweeper/sampler=gp"]),
            (["seed=0,1", "hydra.sweeper.sampler.seed=x"], ["hydra.sweeper.sampler.seed=x", "a whole number"]),
            (["seed=0,1", "+hydra.sweeper.sampler.sed=1"], ["TPESampler takes no such argument", "did you mean seed?"]),
            (["seed=0,1", "hydra.sweeper.pruner.min_resource=0"], ["min_resource"]),
            (["seed=0,1", "hydra.sweeper.pruner._target_=os.system"], ["os.system is not allowed"]),
            (["optimizer.lr=interval(0,1)", "hydra/sweeper/sampler=grid"], ["holds any number", "range(…)"]),
            (
                ["sweep=architecture", "hydra/sweeper/sampler=grid", "optimizer.lr=1"],
                ["hangs on model", "random or tpe"],
            ),
            (["seed=0,1", "hydra.sweeper.objectives={val/acc:maxx}"], ["val/acc=maxx", "did you mean max?"]),
            (["seed=0,1", "hydra.sweeper.objectives={cost/epoch:min}"], ["cost/epoch", "did you mean cost/epochs?"]),
            (["seed=0,1", "hydra.sweeper.objectives={val/acc:max,cost/epochs:min}"], ["hydra/sweeper/pruner=none"]),
            (["seed=0,1", "hydra.sweeper.constraints=[seed]"], ["constraints: seed: expected NAME <= NUMBER"]),
            (["seed=0,1", "hydra.sweeper.constraints=['sead<=1']"], ["sead<=1: no such key", "did you mean seed?"]),
            (["seed=0,1", "hydra.sweeper.constraints=['fit<=1']"], ["fit=True is no number"]),
            (["seed=0,1", "hydra.sweeper.constraints=['cost/second<=1']"], ["did you mean cost/seconds?"]),
        ]
    ),
]


# All of them in `make test-all`; every eighth in `make test`, where each takes half a second
LINES = [
    pytest.param(words, said, id=" ".join(words), marks=[pytest.mark.slow] if i % 8 else [])
    for i, (words, said) in enumerate(WRONG)
]


@pytest.mark.parametrize(("words", "said"), LINES)
def test_wrong_command_lines_are_answered(words: list[str], said: list[str], tmp_path: Path) -> None:
    here = [] if any(word.startswith("paths.log_dir") for word in words) else [f"paths.log_dir={tmp_path}"]
    answer = run_script("tests/untorched.py", *words, *here, timeout=20)
    assert answer.returncode == 2
    for part in said:
        assert part in answer.stderr
    for bad in ("Traceback", "torch was imported"):
        assert bad not in answer.stderr
    assert len(answer.stderr.splitlines()) <= 10
    assert not list(tmp_path.iterdir()), "a wrong command leaves nothing behind"


@pytest.mark.slow
def test_the_probe_sees_torch(tmp_path: Path) -> None:
    answer = run_script("tests/untorched.py", f"paths.log_dir={tmp_path}", "trainer.fast_dev_run=true", timeout=120)
    assert "torch was imported" in answer.stderr


RIGHT = [
    ["trainer.devices=1", "seed=0"],
    ["trainer=gpu", "trainer.devices=[0,1]"],
    ["trainer=gpu", "trainer.devices=-1", "trainer.precision=16-mixed"],
    ["trainer=ddp_cpu", "data.batch_size=34"],
    ["trainer=cpu", "trainer.devices=auto", "data.batch_size=33"],
    ["data=linear", "model=linear_regression", "data.batch_size=1000000", "trainer=ddp_cpu"],
    ["debug=overfit", "trainer.overfit_batches=0.1", "trainer.limit_val_batches=0.5"],
    ["debug=overfit", "trainer.limit_val_batches=1"],
    ["trainer.deterministic=warn", "trainer.fast_dev_run=3", "trainer.max_time=00:12:00:00"],
    ["trainer.max_epochs=-1", "trainer.max_steps=100"],
    ["trainer.max_epochs=-1", "scheduler=none"],
    ["trainer.val_check_interval=0.5", "trainer.gradient_clip_val=1", "trainer.gradient_clip_algorithm=value"],
    ["trainer.val_check_interval=1000", "trainer.check_val_every_n_epoch=null"],
    ["scheduler=onecycle", "optimizer=sgd", "optimizer.momentum=0"],
    ["scheduler=cosine", "optimizer=lbfgs"],
    ["scheduler=plateau", "+scheduler.strict=false"],
    ["+optimizer.amsgrad=true", "optimizer.betas=[0,0.99]", "optimizer.lr=1"],
    ["callbacks=early_stopping", "callbacks.early_stopping.patience=2", "callbacks.progress=null"],
    ["+callbacks.mine._target_=pytorch_lightning.callbacks.RichModelSummary", "+callbacks.mine.max_depth=2"],
    ["model=rnn", "model.memory=784", "model.read=numbers"],
    ["model=resnet", "model.depth=50", "model.weights=DEFAULT"],
    ["data=adding", "model=rnn_regressor", "data.min_length=50"],
    ["model=mlp", "model.hidden_sizes=[]", "model.dropout=0"],
    ["~callbacks.summary", "logger=none", "++trainer.max_epochs=2"],
    ["test=false", "trainer.limit_val_batches=0"],
]


OPTUNA = "hydra/sweeper=optuna"
SWEEPS = [
    ["model=mlp,cnn", "model.dropout=0.1,0.2"],
    ["data=blobs,logistic", "model=mlp", "data.num_features=choice(10)", "seed=range(2)"],
    ["sweep=lr", "seed=0,1"],
    ["sweep=lr", "optimizer.lr=0.1"],
    ["sweep=lenet"],
    ["sweep=lenet", "data=digits", "hydra/sweeper/sampler=gp", "hydra/sweeper/pruner=median", "model.width=1"],
    ["sweep=architecture", "hydra/sweeper/pruner=none", "hydra.sweeper.objectives={val/acc:max,cost/parameters:min}"],
    ["sweep=architecture", "model=mlp,lenet"],
    ["sweep=architecture", "model=cnn"],
    [OPTUNA, "seed=range(3)", "optimizer.betas=[0.9,0.99],[0.8,0.9]", "hydra/sweeper/sampler=grid"],
    [
        OPTUNA,
        "optimizer=adamw,sgd",
        "optimizer.momentum=0,0.9",
        "hydra.sweeper.when={optimizer.momentum:optimizer\\=sgd}",
    ],
    [OPTUNA, "data.batch_size=tag(log,int(interval(8,64)))", "hydra.sweeper.constraints=['data.batch_size>=16']"],
    [OPTUNA, "optimizer.lr=tag(log,interval(1e-4,1e-1))", "hydra.sweeper.constraints=['cost/seconds < 60']"],
]


@pytest.mark.parametrize("words", SWEEPS, ids=" ".join)
def test_right_sweeps_pass(words: list[str]) -> None:
    config = compose([word for word in words if not parse([word])[0].is_sweep_override()], hydra=True)
    config.hydra.overrides.task = [word for word in words if not word.startswith("hydra")]
    check_sweep(config)


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("optuna", []),
        ("cmaes", ["hydra/sweeper/sampler=cmaes"]),
        ("scipy", ["hydra/sweeper/sampler=gp"]),
        ("scipy", ["hydra/sweeper/pruner=wilcoxon"]),
    ],
)
def test_what_a_sampler_needs_is_named(package: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sweeper = compose([OPTUNA, *words], hydra=True).hydra.sweeper
    check_optuna(sweeper, Space.parse(["seed=0,1"]))
    monkeypatch.setattr(machine, "has_package", lambda name: name != package)
    with pytest.raises(UserError, match=rf"(?i){package}: pip install -e \.\[optuna\]"):
        check_optuna(sweeper, Space.parse(["seed=0,1"]))


@pytest.mark.parametrize("overrides", RIGHT, ids=" ".join)
def test_right_command_lines_pass(overrides: list[str], cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 2)
    validate(cfg(*overrides))


def test_without_optuna_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.engine.config.security.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"Optuna is not installed: pip install -e \.\[optuna\]"):
        compose([OPTUNA], hydra=True)


def test_no_gpu_where_one_was_asked_for(cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 0)
    with pytest.raises(UserError, match="0 GPUs"):
        validate(cfg("trainer=gpu"))
    monkeypatch.setattr(machine, "count_gpus", lambda: 1)
    validate(cfg("trainer=gpu"))
    for devices in ("2", "[1]"):
        with pytest.raises(UserError, match="1 GPUs"):
            validate(cfg("trainer=gpu", f"trainer.devices={devices}"))


@pytest.mark.parametrize(("gpus", "refused"), [(0, False), (3, True), (4, False)])
def test_all_gpus_share_the_batch(gpus: int, refused: bool, cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: gpus)
    if not refused:
        validate(cfg())
        return
    with pytest.raises(UserError, match=r"by 3 processes .*\n.* 126 and 129"):
        validate(cfg())


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named(name: str, cfg: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_package", lambda package: False)
    with pytest.raises(UserError, match=f"{name} is not installed: pip install"):
        validate(cfg(f"logger={name}"))
    monkeypatch.setattr(machine, "has_package", lambda package: True)
    validate(cfg(f"logger={name}"))


def test_the_jobs_of_a_sweep_are_those_that_hydra_makes() -> None:
    made = list(jobs(Space.parse(["data=mnist", "model=mlp,lenet", "optimizer.lr=1e-3,1e-2", "seed=range(2)"])))
    assert len(made) == 8
    cfg, overrides = made[-1]
    assert overrides == ["data=mnist", "model=lenet", "optimizer.lr=0.01", "seed=1"]
    assert cfg.data._target_ == "lab.data.mnist.MNIST"
    assert cfg.model._target_ == "lab.models.lenet.LeNet"
    assert (cfg.optimizer.lr, cfg.scheduler.scheduler.max_lr, cfg.seed) == (0.01, 0.01, 1)


def test_of_a_large_sweep_every_value_is_looked_at() -> None:
    made = list(jobs(Space.parse(["seed=range(20)", "optimizer.lr=1,2,3", "data.num_val=1,2"])))
    assert len(made) == 1 + 19 + 2 + 1
    for key, count in (("seed", 20), ("optimizer.lr", 3), ("data.num_val", 2)):
        assert len({word for _, job in made for word in job if word.startswith(f"{key}=")}) == count


def test_of_an_interval_both_ends_are_looked_at_and_of_a_condition_every_side() -> None:
    words = ["model=lenet,mlp", "optimizer.lr=interval(1e-3,1)", "model.activation=relu,gelu", "seed=range(30)"]
    made = list(jobs(Space.parse(words, when={"model.activation": "model=mlp"})))
    seen = {word for _, job in made for word in job}
    assert {"optimizer.lr=0.001", "optimizer.lr=1.0", "model.activation=gelu", "model=lenet", "seed=29"} <= seen
    assert all(("model=mlp" in job) == any("activation" in word for word in job) for _, job in made)
