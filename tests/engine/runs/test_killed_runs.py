"""Runs of many settings that are killed at random moments and begun again by the same words end as if they had not."""

import random
import signal
import time
from pathlib import Path

import pytest

from lab.engine.runs.run import Run
from tests.engine.runs.test_resume import assert_equal, result
from tests.processes import Forked, members

KILLS = 3  # of each setting

SMALL = ["data.num_samples=600", "data.num_val=100", "data.batch_size=50", "trainer.max_epochs=12"]
MLP = [*SMALL, "model=mlp", "model.dropout=0.2", "data.augment=true"]
CNN = [*SMALL, "model=cnn", "trainer.max_epochs=3"]
GAN = [*SMALL, "model=gan", "callbacks.generative_metrics=null", "objective=null", "trainer.max_epochs=4"]
SETTINGS = {
    "float64": [*MLP, "trainer.precision=64-true"],
    "bfloat16": [*MLP, "trainer.precision=bf16-mixed"],
    "plateau within an epoch": [
        *(*MLP, "scheduler=plateau", "scheduler.scheduler.patience=0", "trainer.val_check_interval=4"),
        "+scheduler.scheduler.threshold=0.9",
    ],
    "early stopping": [*MLP, "callbacks=early_stopping", "callbacks.early_stopping.patience=9"],
    "accumulation and clipping": [*MLP, "trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.5"],
    "two workers": [*MLP, "data.num_workers=2"],
    "two ranks": [*MLP, "trainer=ddp_cpu"],
    "moving average": [*CNN, "callbacks=ema", "callbacks.ema.decay=0.8"],
    "layers that learn later": [*CNN, "callbacks=[ema,finetune]", "optimizer=sgd", "optimizer.lr=0.01"],
    "resnet, layers that learn later": [
        *("model=resnet", "callbacks=finetune", "data.num_samples=128", "data.num_val=32", "data.batch_size=16"),
        *("optimizer=sgd", "optimizer.lr=0.01", "trainer.max_epochs=3", "trainer.limit_test_batches=1"),
    ],
    "momentum and cosine": [*MLP, "optimizer=sgd", "scheduler=cosine", "trainer.max_steps=115"],
    "L-BFGS": [
        *("data=linear", "model=linear_regression", "optimizer=lbfgs", "scheduler=none", "data.num_samples=2000"),
        *("data.batch_size=100", "trainer.precision=64-true"),
    ],
    "vae": [*SMALL, "model=vae", "model.nll_samples=2"],
    "gan": [*GAN, "trainer.accumulate_grad_batches=2"],
    "gpt": ["model=gpt", "data=text", "data.num_tokens=20000", "model.dropout=0.1", "data.batch_size=16"],
    "rnn": [*SMALL, "model=rnn", "trainer.max_epochs=3", "fast_loop=false"],
}


@pytest.mark.slow
@pytest.mark.timeout(600)  # a resnet on a busy machine
@pytest.mark.parametrize("setting", SETTINGS)
def test_kills_change_nothing(setting: str, run_forked: Forked, tmp_path: Path, data_dir: Path) -> None:
    places = [f"paths.log_dir={tmp_path}/logs", f"paths.data_dir={data_dir}"]
    words = [*SETTINGS[setting], *places, "trainer.log_every_n_steps=4", "callbacks.checkpoint.every_n_steps=3"]
    words += [] if setting == "two ranks" else ["trainer=cpu"]
    began = time.monotonic()
    status, said = run_forked("src/train.py", *words, f"hydra.run.dir={tmp_path}/logs/straight")
    whole = time.monotonic() - began
    assert status == 0, said
    straight, chance = result(Run(tmp_path / "logs" / "straight")), random.Random(setting)
    for i in range(KILLS):
        seconds, status = whole, 0
        while status == 0:  # it has ended before
            directory = tmp_path / "logs" / f"{i}-{seconds}"
            again = [*words, f"hydra.run.dir={directory}", "resume=auto"]
            seconds *= chance.uniform(0.4, 0.95)
            status, said = run_forked("src/train.py", *again, seconds=seconds)
        assert status == -signal.SIGKILL, said
        over = time.monotonic() + 15
        while members(tmp_path):  # the other rank
            assert time.monotonic() < over
            time.sleep(0.05)
        status, said = run_forked("src/train.py", *again)
        assert status == 0, said
        assert_equal(straight, result(Run(directory)), f"{i}, killed after {seconds:.2f} of {whole:.2f} s")
