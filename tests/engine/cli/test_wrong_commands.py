"""Every wrong command line is answered: exit status 2, the key at fault, and the nearest right name if there is one."""

import re
import shlex
from pathlib import Path

import pytest

from lab.engine.config.instantiate import instantiate
from lab.engine.utils import machine
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import ROOT
from tests.conftest import Compose, accepted, refusal, run_script

OPTUNA = "-m hydra/sweeper=optuna"
CALLBACK = "+callbacks.mine._target_"
STRATEGIES = "pytorch_lightning.strategies"

# What is typed, the key that the answer names, and what it offers: the nearest right name, a choice, a remedy
WRONG: list[tuple[str, str, str]] = [
    # groups and choices
    ("modle=mlp", "modle", "model"),
    ("data=digts", "data", "digits"),
    ("model=lenett", "model", "lenet"),
    ("optimizer=adamm", "optimizer", "adam"),
    ("scheduler=cosin", "scheduler", "cosine"),
    ("trainer=ddp_cup", "trainer", "ddp_cpu"),
    ("experiment=mnist_lenett", "experiment", "mnist_lenet"),
    ("callbacks=early_stoping", "callbacks", "early_stopping"),
    ("logger=tensorbord", "logger", "tensorboard"),
    ("debug=overfitt", "debug", "overfit"),
    ("-m sweep=lrr", "sweep", "lr"),
    ("hydra/launcher=joblibb", "hydra/launcher", "joblib"),
    ("-m hydra/sweeper=optun seed=0,1", "hydra/sweeper", "optuna"),
    (f"{OPTUNA} hydra/sweeper/sampler=tpee seed=0,1", "hydra/sweeper/sampler", "tpe"),
    (f"{OPTUNA} hydra/sweeper/pruner=asa seed=0,1", "hydra/sweeper/pruner", "asha"),
    ("model=null", "model", ""),
    ("optimizer=3", "optimizer", ""),
    ("model=lenet model=mlp", "model", "mlp"),
    ("optimizer=sgd seed=1 optimizer=adam", "optimizer", "adam"),
    # what Lightning would find out after the data are there, or never
    ("trainer=cpu trainer.strategy=ddp_spawn", "trainer.strategy", "use ddp"),
    ("trainer=cpu trainer.strategy=fsdp", "trainer.strategy", "ddp_cpu"),
    (f"trainer=cpu trainer.strategy={{_target_:{STRATEGIES}.FSDPStrategy}}", "trainer.strategy", "ddp_cpu"),
    (f"trainer.strategy={{_target_:{STRATEGIES}.DDPStrategy,start_method:fork}}", "trainer.strategy", "use ddp"),
    ("trainer.strategy=deepspeed_stage_2", "trainer.strategy", "pip install deepspeed"),
    ("trainer=cpu trainer.precision=16-true", "trainer.precision", "bf16-mixed"),
    ("trainer=cpu trainer.precision=16", "trainer.precision", "bf16-mixed"),
    ("trainer.precision=bf16-mixed trainer.gradient_clip_val=1", "trainer.gradient_clip_val", "optimizer.fused=false"),
    ("trainer.profiler=xla", "trainer.profiler", "pip install torch_xla"),
    ("trainer.barebones=true", "trainer.barebones", "callbacks=none"),
    ("trainer.max_steps=0", "trainer.max_steps", "fit=false"),
    ("trainer.plugins=[{_target_:pytorch_lightning.plugins.io.AsyncCheckpointIO}]", "trainer.plugins", "leave it out"),
    ("scheduler=plateau scheduler.interval=step", "scheduler.frequency", "scheduler.interval=epoch"),
    ("scheduler=plateau scheduler.interval=step scheduler.frequency=6 trainer.val_check_interval=4",
     "scheduler.frequency", "multiple"),
    # keys
    ("lr=0.1", "lr", "optimizer.lr"),
    ("optimizer.lrr=1", "optimizer.lrr", "optimizer.lr"),
    ("model.hiden_sizes=[64]", "model.hiden_sizes", "model.hidden_sizes"),
    ("data.batch_sizes=3", "data.batch_sizes", "data.batch_size"),
    ("trainer.max_epoch=3", "trainer.max_epoch", "trainer.max_epochs"),
    ("scheduler.scheduler.max_lrr=1", "scheduler.scheduler.max_lrr", "scheduler.scheduler.max_lr"),
    ("callbacks.progress.intervall=1", "callbacks.progress.intervall", "callbacks.progress.interval"),
    ("logger=csv +logger.csv.prefx=x", "logger.csv.prefx", "prefix"),
    ("logger.tensorboard.versoin=1", "logger.tensorboard.versoin", "logger.tensorboard.version"),
    ("objective.metrc=val/acc", "objective.metrc", "objective.metric"),
    ("paths.log_dirr=x", "paths.log_dirr", "paths.log_dir"),
    ("hydra.run.dirr=x", "hydra.run.dirr", "hydra.run.dir"),
    ("callbacks.early_stopping.patience=3", "callbacks.early_stopping", ""),
    ("trainer={a:1}", "trainer.a", ""),
    ("+foo=1", "foo", ""),
    ("+sead=1", "sead", "seed"),
    ("+new.key=1", "new.key", ""),
    # arguments of our classes, of torch's and of Lightning's
    ("+model.chanels=[1,2]", "model.chanels", "channels"),
    ("model=mlp +model.label_smooting=0.1", "model.label_smooting", "label_smoothing"),
    ("+data.num_worker=1", "data.num_worker", "num_workers"),
    ("optimizer=sgd +optimizer.momentun=0.9", "optimizer.momentun", "momentum"),
    ("+optimizer.amsgrd=true", "optimizer.amsgrd", "amsgrad"),
    ("scheduler=plateau +scheduler.scheduler.cooldwn=1", "scheduler.scheduler.cooldwn", "cooldown"),
    ("+scheduler.scheduler.cycle_momentun=false", "scheduler.scheduler.cycle_momentun", "cycle_momentum"),
    ("+scheduler.intervall=step", "scheduler.intervall", "interval"),
    ("+trainer.max_epoch=3", "trainer.max_epoch", "max_epochs"),
    ("++trainer.max_epoch=3", "trainer.max_epoch", "max_epochs"),
    ("+callbacks.checkpoint.save_topk=2", "callbacks.checkpoint.save_topk", ""),
    ("+callbacks.learning_rate.log_momentun=true", "callbacks.learning_rate.log_momentun", "log_momentum"),
    (f"{CALLBACK}=pytorch_lightning.callbacks.ModelCheckpoint +callbacks.mine.save_topk=2",
     "callbacks.mine.save_topk", "save_top_k"),
    ("+objective.metrics=val/acc", "objective.metrics", "metric"),
    (f"{OPTUNA} seed=0,1 +hydra.sweeper.sampler.sed=1", "hydra.sweeper.sampler.sed", "seed"),
    ("optimizer.amsgrad=true", "optimizer.amsgrad", "+optimizer.amsgrad"),
    ("-m optimizer.amsgrad=true,false", "optimizer.amsgrad", "+optimizer.amsgrad"),
    ("-m model=mlp,lenet '+foo.bar=1,2'", "foo.bar", "in the job model=mlp"),
    # classes
    ("+callbacks.mine._target_=null", "callbacks.mine", "_target_"),
    ("model._target_=MLP", "model._target_", ""),
    ("+callbacks.mine.patience=1", "callbacks.mine", ""),
    ("+logger.mine.name=x", "logger.mine", ""),
    (f"{CALLBACK}=lab.callbacks.progress.Progres", "lab.callbacks.progress.Progres", "Progress"),
    (f"{CALLBACK}=pytorch_lightning.callbacks.EarlyStoping", "pytorch_lightning.callbacks.EarlyStoping",
     "EarlyStopping"),
    (f"{CALLBACK}=nowhere.Callback", "nowhere.Callback", ""),
    ("model._target_=lab.models.mlp.MPL", "lab.models.mlp.MPL", "MLP"),
    # what is required, and what a run needs
    ("data=csv", "data.path", ""),
    ("data=csv 'data.path=${paths.data_dir}/table.csv' model=mlp", "data.target", ""),
    (f"{CALLBACK}=pytorch_lightning.callbacks.EarlyStopping", "callbacks.mine.monitor", ""),
    ("data.num_val=???", "data.num_val", ""),
    ("~model", "model", ""),
    ("~trainer", "trainer", ""),
    ("~seed", "seed", ""),
    ("~paths.log_dir", "paths.log_dir", ""),
    ("~callbacks.sumary", "callbacks.sumary", "callbacks.summary"),
    ("~model._target_", "model", ""),
    ("~dims.image_shape", "dims.image_shape", "mlp"),
    # values of another type
    ("optimizer.lr=abc", "optimizer.lr", ""),
    ("optimizer.lr=", "optimizer.lr", ""),
    ("optimizer.lr=[0.1]", "optimizer.lr", ""),
    ("optimizer.lr={a:1}", "optimizer.lr", ""),
    ("optimizer.lr=true", "optimizer.lr", ""),
    ("optimizer.betas=0.9", "optimizer.betas", ""),
    ("optimizer.betas=[0.9,high]", "optimizer.betas", ""),
    ("optimizer.betas=[0.9]", "optimizer.betas", "2"),
    ("optimizer.fused=1", "optimizer.fused", ""),
    ("data.batch_size=12.5", "data.batch_size", ""),
    ("data.batch_size=true", "data.batch_size", ""),
    ("data.batch_size='\"64\"'", "data.batch_size", ""),
    ("data.num_val=null", "data.num_val", ""),
    ("model.channels=[6]", "model.channels", "2"),
    ("data.augment=sometimes", "data.augment", ""),
    ("fit=maybe", "fit", ""),
    ("test=1", "test", ""),
    ("compile='yes please'", "compile", "max-autotune"),
    ("compile=max-autotun", "compile", "max-autotune"),
    ("compile=1", "compile", "true or false"),
    ("compile=null", "compile", "true or false"),
    ("matmul_precision=tf32", "matmul_precision", "high"),
    ("seed=null", "seed", ""),
    ("seed=1.5", "seed", ""),
    ("seed=one", "seed", ""),
    ("model.hidden_sizes=3", "model.hidden_sizes", ""),
    ("model.hidden_sizes=[120,many]", "model.hidden_sizes", ""),
    ("model.hidden_sizes=[120,1.5]", "model.hidden_sizes", ""),
    ("model=mlp model.batch_norm=on", "model.batch_norm", ""),
    ("model=rnn model.chrono_init=long", "model.chrono_init", ""),
    ("data=adding model=rnn_regressor data.min_length=1.5", "data.min_length", ""),
    ("trainer.max_time=10", "trainer.max_time", "00:12:00:00"),
    ("trainer.max_time=10:00", "trainer.max_time", "00:12:00:00"),
    ("trainer.benchmark=fast", "trainer.benchmark", ""),
    ("trainer.min_epochs=two", "trainer.min_epochs", ""),
    ("trainer.devices=some", "trainer.devices", "auto"),
    ("hydra.job.chdir=perhaps", "hydra.job.chdir", ""),
    ("callbacks.progress=3", "callbacks.progress", ""),
    ("logger.tensorboard=yes", "logger.tensorboard", ""),
    ("scheduler.scheduler=cosine", "scheduler.scheduler", ""),
    ("objective=val/acc", "objective", ""),
    ("dims=3", "dims", ""),
    # out of range
    ("optimizer.lr=-1", "optimizer.lr", "0"),
    ("optimizer.lr=nan", "optimizer.lr", "0"),
    ("optimizer.weight_decay=-0.1", "optimizer.weight_decay", "0"),
    ("optimizer.betas=[0.9,1]", "optimizer.betas", ""),
    ("model=mlp model.dropout=2", "model.dropout", "1"),
    ("model=mlp model.dropout=1", "model.dropout", ""),
    ("model=mlp model.hidden_sizes=[64,0]", "model.hidden_sizes", "1"),
    ("model.num_classes=1", "model.num_classes", "2"),
    ("model.label_smoothing=1.5", "model.label_smoothing", "1"),
    ("model.l2=-1", "model.l2", "0"),
    ("model=resnet model.depth=20", "model.depth", "18"),
    ("model=gpt data=text model.num_heads=0", "model.num_heads", "1"),
    ("seed=-1", "seed", "0"),
    ("seed=4294967296", "seed", "4294967295"),
    ("scheduler=cosine scheduler.scheduler.warmup=2", "scheduler.scheduler.warmup", "1"),
    ("scheduler.scheduler.pct_start=-0.1", "scheduler.scheduler.pct_start", "0"),
    ("data.batch_size=0", "data.batch_size", "1"),
    ("data.num_val=0", "data.num_val", "1"),
    ("data.num_workers=-1", "data.num_workers", "0"),
    ("data=blobs model=mlp data.dirty=2", "data.dirty", "1"),
    ("callbacks.checkpoint.every_n_epochs=-1", "callbacks.checkpoint.every_n_epochs", "0"),
    ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps", "1"),
    ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches", "1"),
    ("trainer.num_nodes=0", "trainer.num_nodes", "1"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val", "0"),
    ("trainer.val_check_interval=1.5", "trainer.val_check_interval", "1"),
    ("trainer.limit_train_batches=-3", "trainer.limit_train_batches", "0"),
    ("trainer.max_epochs=-5", "trainer.max_epochs", "-1"),
    ("trainer.max_steps=-2", "trainer.max_steps", "-1"),
    ("trainer=cpu trainer.devices=0", "trainer.devices", "1"),
    ("trainer.devices=0", "trainer.devices", "1 or more"),
    ("trainer.devices=-1", "trainer.devices", "1 or more"),
    ("trainer.devices=\"'0'\"", "trainer.devices", "1 or more"),
    ("trainer=cpu trainer.devices=\"'2'\" data.batch_size=33", "data.batch_size", "34"),
    ("trainer=cpu trainer.devices=-2", "trainer.devices", "1"),
    # no such choice
    ("model=mlp model.activation=rellu", "model.activation", "relu"),
    ("model=rnn model.cell=lstmm", "model.cell", "lstm"),
    ("model=rnn model.input_mode=row", "model.input_mode", "rows"),
    ("model=vit model.pool=men", "model.pool", "mean"),
    ("model=gan model.loss=hing", "model.loss", "hinge"),
    ("model=gpt data=text model.position_encoding=rotry", "model.position_encoding", "rotary"),
    ("data=linear model=linear_regression model.loss=hubr", "model.loss", "huber"),
    ("data=blobs model=mlp data.missing=medain", "data.missing", "median"),
    ("+scheduler.scheduler.anneal_strategy=coz", "scheduler.scheduler.anneal_strategy", "cos"),
    ("scheduler.interval=steps", "scheduler.interval", "step"),
    ("objective.mode=maximum", "objective.mode", "max"),
    ("trainer.precision=bf16mixed", "trainer.precision", "bf16-mixed"),
    ("trainer.accelerator=gpuu", "trainer.accelerator", "gpu"),
    ("trainer.strategy=dpp", "trainer.strategy", "ddp"),
    ("trainer.gradient_clip_algorithm=nrm", "trainer.gradient_clip_algorithm", "norm"),
    ("trainer.profiler=simpel", "trainer.profiler", "simple"),
    ("callbacks.learning_rate.logging_interval=steps", "callbacks.learning_rate.logging_interval", "step"),
    # interpolations
    ("model.dropout='${nope}'", "model.dropout", ""),
    ("model.dropout='${optimizer.lrr}'", "model.dropout", "optimizer.lr"),
    ("model.dropout='${nope:1}'", "model.dropout", ""),
    ("model.dropout='${model.dropout}'", "model.dropout", ""),
    ("optimizer.lr='${oc.env:LAB_NOT_SET}'", "LAB_NOT_SET", ""),
    ("optimizer.lr='${oc.env:LAB_NOT_SET,0.1}'", "optimizer.lr", ""),
    ("optimizer.lr='${oc.decode:fast}'", "optimizer.lr", ""),
    ("model=mlp optimizer.lr=3 'model.dropout=${optimizer.lr}'", "model.dropout", "1"),
    ("'model.hidden_sizes=${seed}'", "model.hidden_sizes", ""),
    ("+wide=1.5 'model.hidden_sizes=[${wide}]'", "model.hidden_sizes", ""),
    # model and data that do not fit
    ("model=gpt", "model", "text"),
    ("data=text model=lenet", "model", "gpt"),
    ("data=linear", "data", "linear_regression"),
    # between keys
    ("data.num_val=60000", "data.num_val", "data.num_samples"),
    ("trainer=cpu trainer.devices=[0]", "trainer.devices", "1"),
    ("trainer=gpu trainer.devices=[1,1]", "trainer.devices", ""),
    ("trainer=cpu trainer.precision=16-mixed", "trainer.precision", "bf16-mixed"),
    ("trainer=ddp_cpu data.batch_size=33", "data.batch_size", "32"),
    ("trainer=ddp_cpu trainer.num_nodes=3", "data.batch_size", "126"),
    ("trainer.accelerator=tpu", "trainer.accelerator", "auto"),
    ("optimizer=lbfgs scheduler=onecycle", "OneCycle", "scheduler=none"),
    ("trainer.max_epochs=-1", "trainer.max_epochs", "trainer.max_steps"),
    ("trainer.max_epochs=null scheduler=cosine", "trainer.max_epochs", "trainer.max_steps"),
    ("trainer.min_epochs=9 trainer.max_epochs=3", "trainer.min_epochs", "trainer.max_epochs"),
    ("debug=overfit trainer.limit_val_batches=0", "trainer.limit_val_batches", "trainer.overfit_batches"),
    ("scheduler.frequency=2", "scheduler.frequency", "scheduler.frequency=1"),
    ("scheduler=cosine scheduler.interval=epoch scheduler.frequency=2", "scheduler.frequency", "scheduler.frequency=1"),
    ("scheduler=plateau scheduler.frequency=3 trainer.check_val_every_n_epoch=2", "scheduler.frequency",
     "scheduler.frequency=2"),
    ("scheduler=plateau trainer.limit_val_batches=0", "trainer.limit_val_batches", "scheduler=none"),
    ("callbacks=early_stopping trainer.check_val_every_n_epoch=5", "trainer.check_val_every_n_epoch",
     "callbacks.early_stopping=null"),
    ("trainer.check_val_every_n_epoch=null", "trainer.check_val_every_n_epoch", "trainer.val_check_interval"),
    ("trainer.val_check_interval=1000", "trainer.val_check_interval", "421"),
    ("trainer.val_check_interval=100 trainer.limit_train_batches=10", "trainer.val_check_interval", "10"),
    ("trainer.val_check_interval=400 trainer.limit_train_batches=0.5", "trainer.val_check_interval", "210"),
    ("trainer.val_check_interval=100 trainer.overfit_batches=10", "trainer.val_check_interval", "10"),
    ("+logger.mine._target_=pytorch_lightning.loggers.CometLogger", "logger.mine", "comet_ml"),
    ("trainer.enable_progress_bar=false", "trainer.enable_progress_bar", "callbacks.progress=null"),
    ("logger.tensorboard=null", "callbacks.learning_rate", "logger=none"),
    ("objective.metric=test/acc", "objective.metric", ""),
    ("fit=false test=false", "fit", ""),
    ("+trainer.callbacks=[]", "trainer.callbacks", "callbacks.NAME"),
    (f"data=text model=gpt data.path={ROOT}/README.mdd", f"{ROOT}/README.mdd", "README.md"),
    ("hydra.run.dir=/dev/null/here", "/dev/null/here", "paths.log_dir"),
    # the command line itself
    ("foo", "foo", "key=value"),
    ("=3", "=3", ""),
    ("model.hidden_sizes=[1", "model.hidden_sizes", ""),
    ("data.target=\"'a\"", "data.target", ""),
    ("--nope", "--nope", ""),
    ("--mutlirun", "--mutlirun", "--multirun"),
    ("--cfg jobb", "jobb", "job"),
    ("--cfg job --info=all", "--cfg", "--info"),
    ("--config-name trian", "trian", "train"),
    ("--config-dir /nowhere", "/nowhere", ""),
    ("--experimental-rerun x", "--experimental-rerun", "scripts/reproduce_run.py"),
    ("seed=0 -m model=mlp,cnn", "model=mlp,cnn", ""),
    # several values without -m
    ("seed=0,1", "seed", "--multirun"),
    ("'seed=range(3)'", "seed", "--multirun"),
    ("model=mlp,lenet", "model", "--multirun"),
    ("'optimizer.lr=interval(0.1,1)'", "optimizer.lr", "--multirun"),
    # of runs and sweeps that are not there
    ("resume=nowhere", "resume", ""),
    ("resume=latest", "resume", ""),
    ("attach=nowhere", "attach", ""),
    ("sweep.resume=nowhere", "sweep.resume", ""),
    ("sweep.resume=latest", "sweep.resume", ""),
    ("-m resume=latest seed=0,1", "resume", "-m"),
    # sweeps, before their first job
    ("-m model=mlp,lenett", "model", "lenet"),
    ("-m optimizer.lrr=1,2", "optimizer.lrr", "optimizer.lr"),
    ("-m optimizer.lr=1e-3,1e-2,fast", "optimizer.lr", "fast"),
    ("-m data.batch_size=32,64,0", "data.batch_size", "1"),
    ("-m trainer=ddp_cpu data.batch_size=32,65", "data.batch_size", "64"),
    ("-m model=mlp,rnn model.dropout=0,1.5", "model.dropout", "model=mlp"),
    ("-m '+wide=64,many' 'model.hidden_sizes=[${wide},84]'", "model.hidden_sizes", "wide=many"),
    ("-m 'model=glob(g*)'", "model", "text"),
    ("-m model=mlp,gpt 'seed=range(3)'", "model", "text"),
    ("-m model=mlp,vit model.activation=relu,gelu", "model.activation", "hydra.sweeper.when"),
    ("-m 'seed=range(1,0)'", "seed", ""),
    ("-m 'seed=range(0,5,0)'", "seed", ""),
    ("-m 'seed=choice()'", "seed", ""),
    ("-m 'seed=rnge(3)'", "rnge", "range"),
    ("-m seed=0,1,0", "seed", ""),
    ("-m 'optimizer.lr=interval(0.1,1)'", "optimizer.lr", "hydra/sweeper=optuna"),
    ("-m sweep=lenet hydra/sweeper=grid", "hydra.sweeper.n_trials", "hydra/sweeper=optuna"),
    ("-m sweep=lenet model=mlp", "model.width", ""),
    ("-m seed=0,1 hydra.sweeper.max_batch_size=0", "hydra.sweeper.max_batch_size", "1"),
    ("-m seed=0,1 hydra.sweeper.n_trials=5", "hydra.sweeper.n_trials", ""),
    # values that Optuna cannot draw
    (OPTUNA, "", "interval"),
    (f"{OPTUNA} 'optimizer.lrr=interval(1,2)'", "optimizer.lrr", "optimizer.lr"),
    (f"{OPTUNA} 'optimizer.lr=interval(1e-1,1e-4)'", "optimizer.lr", "interval(0.0001, 0.1)"),
    (f"{OPTUNA} 'optimizer.lr=interval(0.1,0.1)'", "optimizer.lr", "optimizer.lr=0.1"),
    (f"{OPTUNA} 'optimizer.lr=interval(0.1)'", "optimizer.lr", "end"),
    (f"{OPTUNA} 'optimizer.lr=interval(0,inf)'", "optimizer.lr", ""),
    (f"{OPTUNA} 'optimizer.lr=tag(log,interval(0,1))'", "optimizer.lr", "0"),
    (f"{OPTUNA} 'optimizer.lr=tag(lg,interval(1,2))'", "optimizer.lr", "log"),
    (f"{OPTUNA} 'optimizer.lr=tag(log,choice(1,2))'", "optimizer.lr", "interval"),
    (f"{OPTUNA} 'optimizer.lr=interval(-1,1)'", "optimizer.lr", "0"),
    (f"{OPTUNA} model=mlp 'model.dropout=interval(0,2)'", "model.dropout", "1"),
    (f"{OPTUNA} 'data.batch_size=interval(8,64)'", "data.batch_size", "int(interval(8,64))"),
    (f"{OPTUNA} 'data.batch_size=tag(int,interval(0.5,4))'", "data.batch_size", ""),
    (f"{OPTUNA} 'data.batch_size=range(8,64,-8)'", "data.batch_size", "64"),
    (f"{OPTUNA} trainer.accelerator=cpu,gpuu", "trainer.accelerator", "gpu"),
    (f"{OPTUNA} model=mlp,cnn 'model.hidden_sizes=[64],[32]'", "model.hidden_sizes", "model=cnn"),
    (f"{OPTUNA} seed=0,1 'hydra.sweeper.when={{sed:\"model=mlp\"}}'", "sed", "seed"),
    (f"{OPTUNA} seed=0,1 'hydra.sweeper.when={{seed:\"modl=mlp\"}}'", "modl", ""),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.when={{seed:mlp}}", "hydra.sweeper.when.seed", "model=mlp"),
    (f"{OPTUNA} seed=0,1 model=mlp,cnn 'hydra.sweeper.when={{seed:\"model=mlpp\"}}'", "mlpp", "mlp"),
    (f"{OPTUNA} seed=0,1 model=mlp,cnn \"hydra.sweeper.when={{seed:'model=mlp',model:'seed=0'}}\"", "seed", "model"),
    # launchers, sweepers, and where Hydra writes
    ("-m hydra/launcher=gpu_pool hydra.launcher.cores_per_job=0 seed=0,1", "hydra.launcher.cores_per_job", "1"),
    ("-m hydra/launcher=gpu_pool +hydra.launcher.device=[0] seed=0,1", "hydra.launcher.device", "devices"),
    ("-m hydra/launcher=joblib hydra.launcher.n_jobs=many seed=0,1", "hydra.launcher.n_jobs", ""),
    ("-m hydra/sweeper=basic seed=0,1", "hydra/sweeper", "grid"),
    ("hydra.output_subdir=conf", "hydra.output_subdir", ".hydra"),
    ("-m seed=0,1 'hydra.sweep.subdir=${hydra:job.override_dirname}'", "hydra.sweep.subdir", "hydra.sweep.dir"),
    ("-m seed=0,1 hydra.sweep.subdir=x", "hydra.sweep.subdir", "sweep.name"),
    (f"{OPTUNA} optimizer.lr=1e-3,1e-2 test=true", "test", "validation"),
    (f"{OPTUNA} test=true,false", "test", "validation"),
    # settings of Optuna's sweeper
    (f"{OPTUNA} seed=0,1 hydra.sweeper.n_trialss=5", "hydra.sweeper.n_trialss", "hydra.sweeper.n_trials"),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials", "1"),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.n_trials=many", "hydra.sweeper.n_trials", ""),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.timeout=-1", "hydra.sweeper.timeout", "0"),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.max_failure_rate=2", "hydra.sweeper.max_failure_rate", "1"),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.n_jobs=0", "hydra.sweeper.n_jobs", "1"),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.sampler=gp", "hydra.sweeper.sampler", "hydra/sweeper/sampler=gp"),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.sampler.seed=x", "hydra.sweeper.sampler.seed", ""),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.pruner._target_=os.system", "os.system", ""),
    (f"{OPTUNA} hydra/sweeper/sampler=grid 'optimizer.lr=interval(0,1)'", "optimizer.lr", "range"),
    (f"{OPTUNA} hydra/sweeper/sampler=grid sweep=architecture optimizer.lr=1", "model", "random"),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.objectives={{val/acc:maxx}}", "hydra.sweeper.objectives.val/acc", "max"),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.objectives={{cost/epoch:min}}", "hydra.sweeper.objectives.cost/epoch",
     "cost/epochs"),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.objectives={{val/acc:max,cost/epochs:min}}", "SuccessiveHalvingPruner",
     "hydra/sweeper/pruner=none"),
    (f"{OPTUNA} seed=0,1 hydra.sweeper.constraints=[seed]", "seed", "NAME <= NUMBER"),
    (f"{OPTUNA} seed=0,1 'hydra.sweeper.constraints=[\"sead<=1\"]'", "sead", "seed"),
    (f"{OPTUNA} seed=0,1 'hydra.sweeper.constraints=[\"fit<=1\"]'", "fit", ""),
    (f"{OPTUNA} seed=0,1 'hydra.sweeper.constraints=[\"cost/second<=1\"]'", "cost/second", "cost/seconds"),
]  # fmt: skip


def assert_tells(answer: str, key: str, offer: str) -> None:
    """Holds an answer against the names that it must hold, whatever its wording."""
    assert re.search(rf"(?<![\w.]){re.escape(key)}(?!\.?\w)", answer), answer
    assert re.search(rf"(?<!\w){re.escape(offer)}(?!\w)", answer), answer
    assert len(answer.splitlines()) <= 10


@pytest.fixture
def places(tmp_path: Path, data_dir: Path) -> list[str]:
    return [f"paths.data_dir={data_dir}", f"paths.log_dir={tmp_path}"]


@pytest.mark.parametrize(
    ("typed", "key", "offer"),
    # each takes a sixth of a second: every second one is left to `make test-all`
    [pytest.param(*row, id=row[0], marks=[pytest.mark.slow] if i % 2 else []) for i, row in enumerate(WRONG)],
)
def test_a_wrong_command_line_is_answered(
    typed: str, key: str, offer: str, places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 0)
    assert_tells(refusal(*shlex.split(typed), *places), key, offer)
    assert not list(tmp_path.iterdir()), "a wrong command leaves nothing behind"


# by the real command some of each kind: each takes a second
REAL = [row for row in WRONG if row[0] in {
    "modle=mlp", "optimizer.lrr=1", "+foo=1", "optimizer=sgd +optimizer.momentun=0.9", "data=csv",
    "model=mlp model.dropout=2", "trainer.strategy=dpp", "model.dropout='${nope}'", "model=gpt", "--mutlirun",
    "seed=0,1", "resume=nowhere", "-m optimizer.lr=1e-3,1e-2,fast",
}]  # fmt: skip


@pytest.mark.parametrize(("typed", "key", "offer"), REAL, ids=[typed for typed, _, _ in REAL])
def test_the_real_command_answers_without_torch(
    typed: str, key: str, offer: str, places: list[str], tmp_path: Path
) -> None:
    refusal(*shlex.split(typed), *places)  # once: a class that was edited since its signature was read is imported
    answer = run_script("tests/untorched.py", *shlex.split(typed), *places, timeout=60)
    assert answer.returncode == 2
    assert_tells(answer.stderr, key, offer)
    for bad in ("Traceback", "torch was imported"):
        assert bad not in answer.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_wrong_command_line_loads_torch(places: list[str], tmp_path: Path) -> None:
    """But those that name a class which nobody knows: only an import tells whether it is there."""
    lines = [[*shlex.split(typed), *places] for typed, _, _ in WRONG if "_target_" not in typed]
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import sys\n"
        "from lab.engine.cli.arguments import hydra_arguments\n"
        "from lab.engine.cli.command import check_command\n"
        "from lab.engine.utils.errors import UserError\n"
        f"for words in {lines!r}:\n"
        "    try:\n"
        "        check_command(hydra_arguments(words, {}))\n"
        "    except UserError:\n"
        "        pass\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'{words} loads torch')\n"
    )
    done = run_script(str(probe))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("lacking", "offer"), [("find_compiler", "g++"), ("has_python_headers", "python3-dev")])
def test_a_model_is_not_compiled_without_a_compiler(lacking: str, offer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, lacking, lambda *_: None)
    assert_tells(refusal("trainer=cpu", "compile=max-autotune"), "compile", offer)
    accepted("trainer=cpu", "compile=false")


@pytest.mark.slow
def test_the_real_command_would_tell_of_torch(tmp_path: Path) -> None:
    answer = run_script("tests/untorched.py", f"paths.log_dir={tmp_path}", "trainer.fast_dev_run=true", timeout=120)
    assert "torch was imported" in answer.stderr


@pytest.mark.parametrize(
    ("words", "key", "offer"),
    [
        (["model=vit", "model.patch_size=5"], "patch_size", ""),
        (["model=vae", "model.num_samples=5", "model.beta=2"], "num_samples", "beta"),
        (["model=rnn", "model.cell=gru", "model.chrono_init=9"], "chrono_init", "cell"),
        (["model=rnn", "model.dropout=0.1"], "dropout", "num_layers"),
        (["model=gpt", "data=text", "model.num_heads=5"], "num_heads", "embed_dim"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_contradicts_itself_is_refused_by_the_constructor(
    words: list[str], key: str, offer: str, cfg: Compose
) -> None:
    with pytest.raises(UserError) as told:
        instantiate(cfg(*words).model)
    assert_tells(str(told.value), key, offer)


@pytest.mark.parametrize(
    ("text", "key", "offer"),
    [
        ("model: {dropout: 0.3}\n", "experiment", "# @package _global_"),
        ("- model\n- data\n", "experiment", "# @package _global_"),
        ("model mlp\n", "experiment", "# @package _global_"),
        ("# @package _global_\n- model\n", "experiment/mine", "ListConfig"),
        ("# @package _global_\nmodle: {dropout: 0.3}\n", "modle", "model"),
        ("# @package _global_\noptimiser: {lr: 0.3}\n", "optimiser", "optimizer"),
    ],
)
def test_an_experiment_that_nothing_would_read_is_refused(
    text: str, key: str, offer: str, places: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(text)
    assert_tells(refusal("--config-dir", f"{tmp_path}/own", "experiment=mine", *places), key, offer)
