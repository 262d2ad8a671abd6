"""Every valid option that a command line can choose: a run with it trains, or is refused in one line that is true."""

import re
from pathlib import Path

import pytest
from pytorch_lightning.strategies import StrategyRegistry

from tests.conftest import choices, fits, refusal, small
from tests.processes import Forked

pytestmark = pytest.mark.slow

MLP = ["model=mlp", "data.num_samples=600", "data.num_val=100", "data.batch_size=50"]
SHORT = [f"trainer.limit_{stage}_batches=1" for stage in ("train", "val", "test")]

# Values that are not the default of each field of the Trainer
TRAINER: dict[str, list[str]] = {
    "accelerator": ["cpu", "gpu"],
    "strategy": sorted(StrategyRegistry.available_strategies()),
    "devices": ["1", "2"],
    "num_nodes": ["2", "3"],
    "precision": ["bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "transformer-engine"],
    "logger": ["true", "false"],
    "callbacks": ["[]", "null"],
    "fast_dev_run": ["true", "3"],
    "max_epochs": ["2", "0", "-1 trainer.max_steps=5", "null"],
    "min_epochs": ["1", "2"],
    "max_steps": ["5", "0"],
    "min_steps": ["3", "8"],
    "max_time": ["00:00:10:00", "{minutes:10}"],
    "limit_train_batches": ["2", "0.5"],
    "limit_val_batches": ["1", "0.5", "0"],
    "limit_test_batches": ["1", "0.5", "0"],
    "limit_predict_batches": ["1", "0.5"],
    "overfit_batches": ["2", "0.2"],
    "val_check_interval": ["4", "0.5", "00:00:10:00"],
    "check_val_every_n_epoch": ["2", "null trainer.val_check_interval=4"],
    "num_sanity_val_steps": ["2", "-1"],
    "log_every_n_steps": ["1", "7"],
    "enable_checkpointing": ["false", "false callbacks=none objective=null"],
    "enable_progress_bar": ["false", "false callbacks.progress=null"],
    "enable_model_summary": ["true"],
    "accumulate_grad_batches": ["2", "7"],
    "gradient_clip_val": ["0.1", "1"],
    "gradient_clip_algorithm": ["norm trainer.gradient_clip_val=1", "value trainer.gradient_clip_val=1"],
    "deterministic": ["true", "warn"],
    "benchmark": ["true", "false"],
    "inference_mode": ["false"],
    "use_distributed_sampler": ["false"],
    "profiler": ["simple", "advanced", "pytorch", "xla"],
    "detect_anomaly": ["true"],
    "barebones": ["true", "true callbacks=none logger=none objective=null"],
    "plugins": ["null", "[]"],
    "sync_batchnorm": ["true"],
    "reload_dataloaders_every_n_epochs": ["1", "2"],
    "default_root_dir": ["${paths.run_dir}/here"],
    "enable_autolog_hparams": ["true", "false"],
    "model_registry": ["null", "a_name"],
}
SEEDS, TRIALS = ["seed=0,1"], ["optimizer.lr=choice(1e-3,1e-2)", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2"]
# Choices of Hydra's groups, and with which words they are tried; Slurm has a test of its own
HYDRA: dict[str, tuple[list[str], list[str]]] = {
    "launcher": (["basic", "joblib", "gpu_pool", "ray", "submitit_local"], ["-m", *SEEDS]),
    "sweeper": (["basic", "grid"], ["-m", *SEEDS]),
    "sweeper/sampler": (choices("hydra/sweeper/sampler"), ["-m", *TRIALS]),
    "sweeper/pruner": (choices("hydra/sweeper/pruner"), ["-m", *TRIALS]),
    "job_logging": (["default", "disabled", "none", "stdout", "lab"], []),
    "hydra_logging": (["default", "disabled", "none", "hydra_debug"], []),
    **{group: (["default"], []) for group in ("help", "hydra_help", "env", "output")},
}


def cells() -> dict[str, list[str]]:
    """The words of each cell that is tried, by its name."""
    table = {}
    for field, values in TRAINER.items():
        plus = "+" if field in ("logger", "callbacks", "enable_autolog_hparams", "model_registry") else ""
        for value in values:
            words = [*MLP, "trainer.max_epochs=1", *f"{plus}trainer.{field}={value}".split()]
            table[f"trainer.{field}={value}"] = words
    for model in choices("model"):
        data = next(data for data in ("digits", "text", *choices("data")) if fits(model, data))
        for optimizer in choices("optimizer"):
            words = [*small(model, data), *SHORT, "trainer.max_epochs=1", "scheduler=none", f"optimizer={optimizer}"]
            table[f"model={model} optimizer={optimizer}"] = words
    for scheduler in choices("scheduler"):
        for interval in ("step", "epoch"):
            words = [f"scheduler={scheduler}", f"scheduler.interval={interval}"]
            table[" ".join(words)] = [*MLP, "trainer.max_epochs=2", *words]
    for group, (names, words) in HYDRA.items():
        for name in names:
            cell = f"hydra/{group}={name}"
            table[cell] = [*words, *MLP, "trainer.max_epochs=1", "logger=none", cell]
    return table


CELLS = cells()
# What the line says, by a pattern of the cells
REFUSED = {
    r"trainer.accelerator=gpu": "this machine has 0 GPUs",
    r"trainer.strategy=ddp_(fork|notebook|spawn).*": "forked processes return neither weights nor figures",
    r"trainer.strategy=deepspeed.*": "the package deepspeed is not installed",
    r"trainer.strategy=fsdp.*": "needs GPUs",
    r"trainer.(strategy|profiler)=(single_)?(tpu|xla).*": "the package torch_xla is not installed",
    r"trainer.precision=16-.*": "needs a GPU",
    r"trainer.precision=transformer-engine": "the package transformer_engine is not installed",
    r"trainer.num_nodes=2": "MASTER_ADDR is not set",
    r"trainer.num_nodes=3": "data.batch_size=50 cannot be shared by 3 processes",
    r"trainer.(logger|callbacks)=.*": "they are a group of their own",
    r"trainer.max_(epochs|steps)=0": "leaves nothing to train",
    r"trainer.max_epochs=null": "OneCycle needs an end",
    r"trainer.min_epochs=2": "expected at most trainer.max_epochs=1",
    r"trainer.limit_val_batches=0.5": "0.5 * 1 < 1",
    r"trainer.overfit_batches=0.2": "trainer.overfit_batches",
    r"trainer.enable_(checkpointing|progress_bar)=false": "and callbacks.",
    r"trainer.barebones=.*": "leaves out logging and checkpoints",
    r"model=gan optimizer=lbfgs": "a game has none",
    r"scheduler=none .*": "scheduler.interval: no such key",
    r"scheduler=plateau scheduler.interval=step": "validations are 10 batches apart",
    r"hydra/launcher=ray": "it is not installed",
    r"hydra/sweeper=basic": "keeps no books",
    r"hydra/sweeper/pruner=wilcoxon": "give at least 5 of them",
}
# Once the data or the model are there
LATE = (
    *("trainer.num_nodes=2", "trainer.limit_val_batches=0.5", "trainer.overfit_batches=0.2"),
    "model=gan optimizer=lbfgs",
)


@pytest.mark.parametrize("cell", CELLS)
def test_an_option(cell: str, run_forked: Forked, tmp_path: Path, data_dir: Path) -> None:
    given = {word.partition("=")[0] for word in CELLS[cell]}
    device = [word for word in ("trainer.accelerator=cpu", "trainer.devices=1") if word.partition("=")[0] not in given]
    paths = [f"paths.log_dir={tmp_path}/logs", f"paths.data_dir={data_dir}"]
    words = [*CELLS[cell], *device, *paths]
    expected = [text for pattern, text in REFUSED.items() if re.fullmatch(pattern, cell)]
    if expected and cell not in LATE:
        assert expected[0] in refusal(*words)
        return
    status, said = run_forked("src/train.py", *words)
    of_torch = ("reducer.cpp", "collection.cpp")  # warnings of C++ that nothing can filter
    lines = [line for line in said.splitlines() if not any(file in line for file in of_torch)]
    assert not [line for line in lines if "Traceback" in line or "Warning" in line], said
    assert status == (2 if expected else 0), said
    for text in expected:
        [line] = [line for line in lines if line.startswith("error: ")]
        assert text in line
