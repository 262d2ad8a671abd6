"""Every right command line is accepted: real arguments, interpolations, configs from elsewhere, sweeps."""

import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from lab.engine.checkpointing.files import read_checkpoint
from lab.engine.runs.run import Run
from lab.engine.sweeps.sweep import Sweep
from lab.engine.utils import machine
from tests.conftest import SMALL, accepted
from tests.processes import await_end, begin, the_run
from tests.slurm import slurm

__all__ = ["slurm"]

OPTUNA = "-m hydra/sweeper=optuna"

RIGHT = [
    "",
    "trainer.devices=1 seed=0",
    "trainer=gpu trainer.devices=[0,1]",
    "trainer=gpu trainer.devices=-1 trainer.precision=16-mixed",
    "trainer=gpu \"trainer.devices='0,1'\"",
    "trainer=ddp_cpu data.batch_size=34",
    "trainer=cpu trainer.devices=auto data.batch_size=33",
    "data=linear model=linear_regression data.batch_size=1000000 trainer=ddp_cpu",
    "debug=overfit trainer.overfit_batches=0.1",
    "scheduler=plateau trainer.check_val_every_n_epoch=2",
    "scheduler=cosine scheduler.interval=epoch",
    "trainer.deterministic=warn trainer.fast_dev_run=3 trainer.max_time=00:12:00:00",
    "trainer.max_epochs=-1 trainer.max_steps=100",
    "trainer.max_epochs=-1 scheduler=none",
    "trainer.precision=bf16-mixed trainer.gradient_clip_val=1 optimizer.fused=false",
    "trainer=cpu trainer.precision=64 trainer.gradient_clip_val=1 matmul_precision=medium",
    "trainer.val_check_interval=0.5 trainer.gradient_clip_val=1 trainer.gradient_clip_algorithm=value",
    "trainer.val_check_interval=1000 trainer.check_val_every_n_epoch=null",
    "trainer.limit_val_batches=0 trainer.val_check_interval=1000",
    "trainer.val_check_interval=00:00:10:00",
    "'trainer.val_check_interval={minutes:10}'",
    "scheduler=plateau scheduler.interval=step scheduler.frequency=8 trainer.val_check_interval=4",
    "scheduler=plateau scheduler.interval=step scheduler.frequency=500 trainer.val_check_interval=00:00:10:00",
    "trainer.limit_train_batches=100 trainer.val_check_interval=100",
    "~trainer.accelerator ~trainer.devices ~trainer.precision ~trainer.accumulate_grad_batches",
    "fit=false trainer=ddp_cpu data.batch_size=33 trainer.min_epochs=9 trainer.max_epochs=3",
    "trainer.fast_dev_run=true trainer.min_epochs=9 trainer.max_epochs=3",
    "trainer.min_epochs=null trainer.max_time=null trainer.profiler=null",
    "+trainer.enable_autolog_hparams=false +trainer.model_registry=null",
    "scheduler=onecycle optimizer=sgd optimizer.momentum=0",
    "scheduler=cosine optimizer=lbfgs",
    "scheduler=plateau +scheduler.strict=false +scheduler.scheduler.cooldown=1",
    "+optimizer.amsgrad=true optimizer.betas=[0,0.99] optimizer.lr=1",
    "optimizer._target_=torch.optim.RMSprop ~optimizer.betas ~optimizer.decay_biases_and_norms ~optimizer.fused"
    " scheduler=none +optimizer.centered=true",
    "callbacks=early_stopping callbacks.early_stopping.patience=2 callbacks.progress=null",
    "+callbacks.mine._target_=pytorch_lightning.callbacks.RichModelSummary +callbacks.mine.max_depth=2",
    "+callbacks.mine={_target_:pytorch_lightning.callbacks.ModelCheckpoint,every_n_train_steps:5,save_top_k:-1}",
    "~callbacks.summary logger=none ++trainer.max_epochs=2",
    "~data.batch_size ~model.dropout",
    "model=rnn model.chrono_init=784 model.input_mode=pixels",
    "model=resnet model.depth=50 model.weights=DEFAULT",
    "data=adding model=rnn_regressor data.min_length=50",
    "model=mlp model.hidden_sizes=[] model.dropout=0",
    "model=mlp +class=lab.models.mlp.MLP 'model._target_=${class}'",
    "test=false trainer.limit_val_batches=0",
    "data.num_samples=2000",
    "data.num_samples=2000 data.num_val=0.25",
    "data=mnist data.num_samples=1000",
    "data=csv 'data.path=${paths.data_dir}/table.csv' data.target=kind model=mlp",
    "data=csv 'data.path=${paths.data_dir}/table.csv' data.target=\"'weight'\" \"data.drop=['kind']\""
    " data.task=regression model=mlp_regressor",
    "\"hydra.job.name='a name, quoted'\" resume=null",
]

# Values that are made of others, and values that are drawn from files of one's own
INTERPOLATED = [
    "'data.seed=${seed}'",
    "-m data=linear model=linear_regression 'data.seed=${seed}' seed=0,1",
    "model.dropout='${oc.decode:\"0.1\"}'",
    "\"optimizer.lr='${oc.decode:${oc.env:LAB_NOT_SET,0.1}}'\"",
    "'model.dropout=${optimizer.weight_decay}'",
    "model=mlp +width=64 'model.hidden_sizes=[${width},${width}]'",
    "model=mlp +sizes.wide=64 'model.hidden_sizes=[\"${sizes.wide}\",32]'",
    "model=mlp +wide=64 'model.hidden_sizes=[\"${product:2,${wide}}\"]'",
    "'scheduler.scheduler.max_lr=${optimizer.lr}' optimizer.lr=0.02",
    "optimizer=sgd 'optimizer.momentum=${model.dropout}'",
    "'data.num_workers=${oc.select:nothing.here,0}'",
    "seed=3 'trainer.max_epochs=${seed}'",
    "data=linear model=linear_regression 'data.num_val=${product:2,500}'",
    "'model.num_classes=${dims.classes}' '+dims.letters=${dims.classes}'",
    "'objective.metric=val/${oc.select:no.such,loss}' objective.mode=min",
    "callbacks=early_stopping 'callbacks.early_stopping.monitor=${objective.metric}'",
    "'callbacks.checkpoint.dirpath=${paths.run_dir}/here' 'logger.tensorboard.version=seed_${seed}'",
    "'trainer.default_root_dir=${hydra:runtime.output_dir}'",
    "'hydra.run.dir=${paths.log_dir}/${hydra:job.name}-${seed}-${now:%H}'",
    "'+callbacks.mine={_target_:pytorch_lightning.callbacks.Timer,duration:{hours:\"${seed}\"}}'",
    "'+paths.note=\"a ${seed}, and more\"'",
    "-m model=mlp 'model.dropout=${optimizer.weight_decay}' seed=0,1",
    "-m model=mlp '+width=32,64' 'model.hidden_sizes=[${width}]'",
    "-m model=mlp 'model.hidden_sizes=[\"${seed}\",8]' 'seed=range(1,4)'",
    f"{OPTUNA} 'optimizer.lr=tag(log,interval(1e-4,1e-2))' 'scheduler.scheduler.max_lr=${{optimizer.lr}}'",
]
ELSEWHERE = [
    "experiment=mine",
    "experiment=mine model.dropout=0.2 optimizer=adam",
    "model=boring data=boring",
    "model=language data=text objective=null",
    "optimizer=rmsprop",
    "callbacks=swa 'callbacks.swa.swa_lrs=${optimizer.lr}'",
    "trainer=short logger=two",
    "scheduler=steps optimizer=sgd",
    "-m experiment=mine seed=0,1",
    "-m experiment=mine,digits_lenet",
    "-m model=boring,language data=boring",
    "sweep=rates",
    "-m sweep=rates experiment=mine optimizer.weight_decay=0,0.1",
]
OWN = {
    "experiment/mine": "# @package _global_\n"
    "defaults: [override /model: mlp, override /scheduler: cosine]\n"
    "width: 24\nmodel: {hidden_sizes: ['${width}', '${width}'], dropout: '${oc.decode:\"0.1\"}'}\n"
    "optimizer: {lr: 0.01}\ntrainer: {max_epochs: 1}\n",
    "model/boring": "# @package _global_\n"
    "model: {_target_: pytorch_lightning.demos.boring_classes.BoringModel}\n",
    "model/language": "# @package _global_\nmodel:\n  vocab_size: ${oc.select:dims.vocab,99}\n"
    "  _target_: pytorch_lightning.demos.transformer.LightningTransformer\n",
    "data/boring": "# @package _global_\n"
    "data: {_target_: pytorch_lightning.demos.boring_classes.BoringDataModule}\n",
    "optimizer/rmsprop": "_target_: torch.optim.RMSprop\n_partial_: true\nlr: 0.01\nmomentum: 0.9\n",
    "scheduler/steps": "scheduler: {_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 2}\n",
    "callbacks/swa": "defaults: [default]\n"
    "swa: {_target_: pytorch_lightning.callbacks.StochasticWeightAveraging, swa_lrs: 0.01}\n",
    "logger/two": "defaults: [csv, tensorboard]\n",
    "trainer/short": "defaults: [cpu]\nmax_epochs: 1\nlimit_train_batches: 0.5\n",
    "sweep/rates": "# @package _global_\nsweep: {name: rates}\n"
    "hydra: {mode: MULTIRUN, sweeper: {params: {optimizer.lr: '1.0e-3, 1.0e-2'}}}\n",
}  # fmt: skip
SWEEPS = [
    "-m model=mlp,cnn model.dropout=0.1,0.2",
    "-m data=blobs,logistic model=mlp 'data.num_features=choice(10)' 'seed=range(2)'",
    "-m 'model=glob(*,exclude=[gpt,linear*,*regressor,logistic*,gan])'",
    "-m sweep=lr seed=0,1",
    "sweep=lr",
    "sweep=lr optimizer.lr=0.1",
    "sweep=lenet",
    "sweep=lenet data=digits hydra/sweeper/sampler=gp hydra/sweeper/pruner=median model.width=1",
    "sweep=architecture hydra/sweeper/pruner=none hydra.sweeper.objectives={val/acc:max,cost/parameters:min}",
    "sweep=architecture model=mlp,lenet",
    "sweep=architecture model=cnn",
    f"{OPTUNA} 'seed=range(3)' 'optimizer.betas=[0.9,0.99],[0.8,0.9]' hydra/sweeper/sampler=grid",
    f"{OPTUNA} optimizer=adamw,sgd optimizer.momentum=0,0.9"
    " 'hydra.sweeper.when={optimizer.momentum:\"optimizer=sgd\"}'",
    f"{OPTUNA} 'data.batch_size=tag(log,int(interval(8,64)))' 'hydra.sweeper.constraints=[\"data.batch_size>=16\"]'",
    f"{OPTUNA} 'optimizer.lr=tag(log,interval(1e-4,1e-1))' 'hydra.sweeper.constraints=[\"cost/seconds < 60\"]'",
    f"{OPTUNA} model=mlp 'model.dropout=interval(0,0.5)' 'model.activation=relu,gelu' hydra.sweeper.n_trials=3",
]


@pytest.fixture
def places(tmp_path: Path, data_dir: Path) -> list[str]:
    return [f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}/logs"]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of configs that is none of the project's."""
    for name, text in OWN.items():
        path = tmp_path / "own" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "own"


@pytest.mark.parametrize(
    "typed",
    [
        *RIGHT,
        *INTERPOLATED,
        *(pytest.param(typed, marks=pytest.mark.slow if i % 3 else []) for i, typed in enumerate(SWEEPS)),
    ],
)
def test_a_right_command_line_is_accepted(typed: str, places: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 2)
    accepted(*shlex.split(typed), *places)


@pytest.mark.parametrize(
    ("way", "typed"),
    [
        pytest.param(way, typed, marks=pytest.mark.slow if (i + j) % 2 else [])
        for i, typed in enumerate(ELSEWHERE)
        for j, way in enumerate(["--config-dir", "hydra.searchpath"])
    ],
)
def test_configs_from_elsewhere_are_accepted(way: str, typed: str, own: Path, places: list[str]) -> None:
    flags = [way, str(own)] if way == "--config-dir" else []
    keys = [f"{way}=[file://{own}]"] if way == "hydra.searchpath" else []
    accepted(*flags, *shlex.split(typed), *keys, *places)


TRAINED = [
    *SMALL, "experiment=mine", "width=8", "optimizer.lr='${oc.decode:\"1e-2\"}'", "logger=none",
    "data.num_workers=${oc.select:nothing.here,0}", "callbacks.checkpoint.dirpath=${paths.run_dir}/checkpoints",
]  # fmt: skip


def assert_trained(run: Run, seed: int) -> None:
    assert run.status == "completed"
    assert (run.config.seed, run.config.optimizer.lr) == (seed, 0.01)
    assert (list(run.config.model.hidden_sizes), run.config.model.dropout) == ([8, 8], 0.1)
    assert read_checkpoint(run.dir / "checkpoints" / "last.ckpt")["epoch"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "gpu_pool", "submitit_slurm"])
def test_jobs_of_every_launcher_find_the_configs(
    launcher: str, own: Path, tmp_path: Path, data_dir: Path, request: pytest.FixtureRequest
) -> None:
    environment: Mapping[str, str] = {}
    if launcher == "submitit_slurm":
        environment = request.getfixturevalue("slurm").environment
    words = ["-m", "--config-dir", str(own), *TRAINED, "trainer=cpu", "seed=0,1", f"hydra/launcher={launcher}"]
    process = begin(tmp_path, data_dir, *words, **environment)
    assert await_end(tmp_path, process, 250) == 0, (tmp_path / "err").read_text()
    jobs = Sweep.open("latest", tmp_path / "logs").jobs
    for seed, run in jobs.items():
        assert_trained(run, seed)
    assert len(jobs) == 2


@pytest.mark.slow
def test_two_ranks_find_the_configs(own: Path, tmp_path: Path, data_dir: Path) -> None:
    words = [f"hydra.searchpath=[file://{own}]", *TRAINED, "trainer=ddp_cpu", "data.batch_size=20"]
    assert await_end(tmp_path, begin(tmp_path, data_dir, *words), 200) == 0, (tmp_path / "err").read_text()
    assert_trained(the_run(tmp_path), seed=0)
    assert the_run(tmp_path).metadata["devices"] == "2 x cpu"
