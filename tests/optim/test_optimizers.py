"""Optimizers and schedules."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

from lab.engine.training.build import build
from lab.engine.utils.errors import UserError
from lab.models.mlp import MLP
from lab.optim.optimizers import SGD, AdamW, configure
from lab.optim.schedulers import OneCycle, cosine
from tests.conftest import SMALL, Command, Compose, choices


def test_biases_and_norms_do_not_decay_on_demand() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    AdamW(model.parameters(), lr=0.1, weight_decay=0.5, decay_biases_and_norms=False).step()
    for p in model.parameters():
        expected = 1 - 0.1 * 0.5 if p.ndim >= 2 else 1.0
        torch.testing.assert_close(p.detach(), torch.full_like(p, expected))


def test_all_parameters_decay_otherwise() -> None:
    model = nn.Linear(4, 3)
    [group] = AdamW(model.parameters(), lr=0.1, weight_decay=0.5).param_groups
    assert len(group["params"]) == 2
    assert group["weight_decay"] == 0.5


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_takes_torchs_steps_also_where_a_layer_learns_later(nesterov: bool) -> None:
    """Against torch's own loop over the parameters: its fused kernel fails where one has no momentum yet."""
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.linspace(-1, 1, 6)) for _ in range(2)] for _ in range(2))
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.01}
    pairs = [(ours, SGD(ours, **options)), (theirs, torch.optim.SGD(theirs, foreach=False, fused=False, **options))]
    for step in range(6):
        gradients = torch.randn(2, 6)
        for parameters, optimizer in pairs:
            for i, p in enumerate(parameters):
                p.grad = gradients[i].clone() if i == 0 or step > 2 else None
            optimizer.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_cosine_follows_its_formula() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    schedule = cosine(optimizer, total_steps=100, warmup=0.1, min_lr_ratio=0.05)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([2.0 * (i + 1) / 11 for i in range(10)])
    for i in (10, 40, 99):
        progress = (i - 10) / 90
        assert rates[i] == pytest.approx(2.0 * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))))


@pytest.mark.parametrize("optimizer", choices("optimizer"))
@pytest.mark.parametrize("scheduler", choices("scheduler"))
def test_every_pair_of_optimizer_and_scheduler_trains(optimizer: str, scheduler: str, cfg: Compose) -> None:
    if (optimizer, scheduler) == ("lbfgs", "onecycle"):
        pytest.skip("refused, below")
    module, data, trainer = build(
        cfg(
            *SMALL,
            "model=logistic_regression",
            f"optimizer={optimizer}",
            f"scheduler={scheduler}",
            "trainer.max_epochs=2",
            "data.batch_size=100",
            "callbacks=none",
            "logger=none",
        )
    )
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 10
    assert module.linear.weight.abs().max() > 0, "it starts at zero"
    rate = trainer.optimizers[0].param_groups[0]["lr"]
    peak = module.optimizer.keywords["lr"]
    assert (rate == pytest.approx(peak)) == (scheduler in ("none", "plateau"))


class Rates(pl.Callback):
    """Notes the rate of each optimizer step."""

    def __init__(self) -> None:
        self.of_steps: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.of_steps.append(optimizer.param_groups[0]["lr"])


LOWEST = 1e-2 / 25 / 1e4  # of OneCycle, as it comes


# Five batches an epoch, three epochs; the optimizer steps that Lightning takes
LIMITS: dict[str, int] = {
    "": 15,
    "accumulate_grad_batches=2": 9,  # the last batch of an epoch is a step by itself
    "accumulate_grad_batches=5": 3,
    "accumulate_grad_batches=7": 3,
    "limit_train_batches=4": 12,
    "limit_train_batches=99": 15,
    "limit_train_batches=0.5": 6,
    "limit_train_batches=1.0": 15,
    "limit_train_batches=3 accumulate_grad_batches=2": 6,
    "overfit_batches=2": 6,
    "overfit_batches=0.5": 6,
    "overfit_batches=0.9 accumulate_grad_batches=3": 6,
    "max_steps=7": 7,
    "max_steps=99": 15,
    "max_steps=7 accumulate_grad_batches=2": 7,
    "max_epochs=-1 max_steps=8": 8,
    "max_epochs=null max_steps=8": 8,
    "max_epochs=1": 5,
    "max_time=01:00:00:00": 15,
    "max_time=01:00:00:00 max_epochs=-1 max_steps=6": 6,
    "val_check_interval=0.4": 15,
    "val_check_interval=2": 15,
    "val_check_interval=7 check_val_every_n_epoch=null": 15,
    "check_val_every_n_epoch=2": 15,
    "reload_dataloaders_every_n_epochs=1": 15,
    "fast_dev_run=2": 2,
    "min_epochs=2 min_steps=3": 15,
}


@pytest.mark.parametrize("limits", LIMITS)
def test_a_schedule_ends_with_the_fit(limits: str, cfg: Compose) -> None:
    rates = Rates()
    module, data, trainer = build(
        cfg(
            *(*SMALL, "model=logistic_regression", "data.batch_size=100", "data.eval_batch_size=20"),
            *("optimizer.lr=1e-2", "callbacks=none", "logger=none", "trainer.max_epochs=3"),
            *(f"trainer.{limit}" for limit in limits.split()),
        ),
        [rates],
    )
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == len(rates.of_steps) == LIMITS[limits]
    assert module.lr_schedulers().total_steps == LIMITS[limits]
    assert rates.of_steps[-1] == pytest.approx(LOWEST)
    assert max(rates.of_steps) > 100 * LOWEST


@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using 'interval'")  # Lightning's question
@pytest.mark.parametrize(
    ("limits", "epochs"),
    [("", 9), ("max_steps=17", 4), ("limit_train_batches=2", 9), ("accumulate_grad_batches=2 max_steps=7", 3)],
)
def test_a_schedule_by_epochs_counts_epochs(limits: str, epochs: int, cfg: Compose) -> None:
    rates = Rates()
    module, data, trainer = build(
        cfg(
            *(*SMALL, "model=logistic_regression", "data.batch_size=100", "optimizer.lr=1e-2"),
            *("callbacks=none", "logger=none", "scheduler.interval=epoch", "trainer.max_epochs=9"),
            *(f"trainer.{limit}" for limit in limits.split()),
        ),
        [rates],
    )
    trainer.fit(module, datamodule=data)
    assert module.lr_schedulers().total_steps == epochs == len(set(rates.of_steps))
    assert rates.of_steps[-1] == pytest.approx(LOWEST)


class Module(pl.LightningModule):
    """Takes batches of any kind, and brings its own loaders on demand."""

    def __init__(self, interval: str = "step", loader: Any = None) -> None:
        super().__init__()
        self.layer, self.interval, self.loader = nn.Linear(1, 1), interval, loader

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.layer(torch.ones(1)).sum()

    def train_dataloader(self) -> Any:
        return self.loader

    def configure_optimizers(self) -> Any:
        scheduler = {"scheduler": partial(OneCycle, max_lr=1e-2), "interval": self.interval}
        return configure(self, partial(torch.optim.SGD, lr=1.0, momentum=0.9), scheduler)


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "key"),
    [
        (partial(torch.optim.SGD, lr=0.1), partial(CosineAnnealingWarmRestarts, T_0=-4), "scheduler.scheduler: .*T_0"),
        (
            partial(torch.optim.SGD, lr=0.1, momentum=-1.0),
            partial(CosineAnnealingWarmRestarts, T_0=4),
            "optimizer: .*mom",
        ),
    ],
)
def test_what_torch_refuses_is_blamed_on_its_own_key(optimizer: Any, scheduler: Any, key: str) -> None:
    with pytest.raises(UserError, match=key):
        configure(Module(), optimizer, {"scheduler": scheduler})


class Stream(IterableDataset[Tensor]):
    """Seven samples, and nobody knows that beforehand."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.zeros(7, 1)


def rows(count: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.zeros(count, 1)), batch_size=2, shuffle=True)


# Loaders as anybody writes them, the Trainer's limits, and the steps of two epochs
LOADERS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "a last batch of one": (lambda: rows(5), {}, 6),
    "drop_last": (lambda: DataLoader(torch.zeros(5, 1), batch_size=2, drop_last=True), {}, 4),
    "a batch sampler": (
        lambda: DataLoader(torch.zeros(5, 1), batch_sampler=BatchSampler(SequentialSampler(range(5)), 4, False)),
        {},
        4,
    ),
    "a list": (lambda: [rows(4), rows(10)], {}, 10),
    "a dict": (lambda: {"a": rows(4), "b": rows(10)}, {"limit_train_batches": 0.5}, 4),
    "the shortest": (lambda: CombinedLoader([rows(4), rows(10)], "min_size"), {}, 4),
    "the longest": (lambda: CombinedLoader([rows(4), rows(10)], "max_size"), {"accumulate_grad_batches": 2}, 6),
    "overfitted": (lambda: rows(20), {"overfit_batches": 0.3}, 6),
    "a stream, max_steps": (lambda: DataLoader(Stream()), {"max_steps": 9}, 9),
    "a stream, a limit": (lambda: DataLoader(Stream()), {"limit_train_batches": 3}, 6),
    "a stream, for ever": (lambda: DataLoader(Stream()), {"max_epochs": -1, "max_steps": 9}, 9),
    "a stream beside rows": (lambda: CombinedLoader([rows(4), DataLoader(Stream())], "min_size"), {"max_steps": 3}, 3),
}


def fit(module: pl.LightningModule, **limits: Any) -> Rates:
    rates, silent = Rates(), {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"max_epochs": 2, "enable_checkpointing": False, "accelerator": "cpu", **silent, "callbacks": [rates]}
    pl.Trainer(**options | limits).fit(module)
    return rates


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*You requested to overfit")
@pytest.mark.parametrize("kind", LOADERS)
def test_a_schedule_ends_with_anybodys_loaders(kind: str) -> None:
    make, limits, steps = LOADERS[kind]
    module = Module(loader=make())
    rates = fit(module, **limits)
    assert len(rates.of_steps) == steps
    assert module.lr_schedulers().total_steps == steps  # type: ignore[union-attr]
    assert rates.of_steps[-1] == pytest.approx(LOWEST)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:A `OneCycleLR` scheduler is using")
def test_data_of_unknown_length_need_max_steps_or_epochs() -> None:
    for interval, limits, key in (
        ("step", {}, "max_steps"),
        ("epoch", {"max_steps": 9}, "max_epochs"),
        ("epoch", {"max_epochs": -1, "max_steps": 9}, "max_epochs"),
    ):
        with pytest.raises(UserError, match=f"unknown length.*{key}, or use scheduler=none"):
            fit(Module(interval, DataLoader(Stream())), **limits)  # type: ignore[arg-type]
    rates = fit(Module("epoch", DataLoader(Stream())), max_epochs=3)
    assert len(set(rates.of_steps)) == 3
    assert rates.of_steps[-1] == pytest.approx(LOWEST)


def test_accumulation_that_changes_is_refused() -> None:
    with pytest.raises(UserError, match=r"accumulate_grad_batches"):
        fit(Module(loader=rows(4)), callbacks=[pl.callbacks.GradientAccumulationScheduler({1: 2})])


@pytest.mark.slow
def test_a_schedule_ends_with_the_fit_of_two_ranks(train_command: Command, tmp_path: Path) -> None:
    done = train_command(
        *(*SMALL, "model=logistic_regression", "data.batch_size=100", "optimizer.lr=1e-2", "trainer=ddp_cpu"),
        *("trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=1", "logger=csv", "test=false"),
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "logs" / "latest" / "csv" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("lr-AdamW")
    rates = [float(cells[column]) for cells in (line.split(",") for line in lines[1:]) if cells[column]]
    assert len(set(rates)) == 9
    assert rates[-1] == pytest.approx(LOWEST)


def test_a_schedule_without_an_end_is_refused(cfg: Compose) -> None:
    module, data, trainer = build(cfg(*SMALL, "callbacks=none", "logger=none", "trainer.max_epochs=-1"))
    with pytest.raises(UserError, match="scheduler=none"):
        trainer.fit(module, datamodule=data)


@pytest.mark.parametrize("model", ["lenet", "cnn", pytest.param("resnet", marks=pytest.mark.slow)])
def test_lbfgs_trains_convolutions(model: str, cfg: Compose) -> None:
    """torch's own cannot flatten their gradients, which are channels-last; a quadratic step must lower the loss."""
    module, data, trainer = build(
        cfg(
            *("data.num_samples=60", "data.num_val=10", "data.batch_size=50", f"model={model}", "optimizer=lbfgs"),
            *("optimizer.max_iter=3", "scheduler=none", "callbacks=none", "logger=none", "trainer.max_epochs=2"),
        )
    )
    losses: list[float] = []
    noted = pl.callbacks.LambdaCallback(
        on_train_batch_end=lambda trainer, module, outputs, *_: losses.append(float(outputs["loss"]))
    )
    trainer.callbacks.append(noted)  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    assert losses[1] < losses[0]


def test_plateau_looks_when_there_is_a_validation(cfg: Compose) -> None:
    """Two epochs in one validation: the rate drops after the second validation that is no better."""
    module, data, trainer = build(
        cfg(
            *(*SMALL, "model=logistic_regression", "data.batch_size=100", "optimizer=sgd", "optimizer.lr=0.0"),
            *("scheduler=plateau", "scheduler.scheduler.patience=1", "trainer.check_val_every_n_epoch=2"),
            *("callbacks=none", "logger=none", "trainer.max_epochs=7"),
        )
    )
    bad: list[int] = []
    trainer.callbacks.append(  # type: ignore[attr-defined]
        pl.callbacks.LambdaCallback(
            on_train_epoch_start=lambda trainer, module: bad.append(module.lr_schedulers().num_bad_epochs)
        )
    )
    trainer.fit(module, datamodule=data)
    assert bad == [0, 0, 0, 0, 1, 1, 0], "validated after epochs 2, 4 and 6; after the third the rate drops"


def test_a_longer_run_goes_on_over_its_new_length() -> None:
    """From where it stood, on the schedule of a run that was to be as long from the beginning."""

    def schedule(total_steps: int, begun: int = 0, state: dict[str, Any] | None = None) -> tuple[OneCycle, list[float]]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
        one = OneCycle(optimizer, max_lr=1.0, total_steps=total_steps)
        if state is not None:
            one.load_state_dict(state)
        rates = []
        for _ in range(begun, total_steps - 1):
            optimizer.step()
            one.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return one, rates

    straight = schedule(20)[1]
    assert schedule(20, 9, schedule(10)[0].state_dict())[1] == straight[9:]


def test_models_carry_no_factory_in_their_hyperparameters() -> None:
    model = MLP(4, 2, optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    assert set(model.hparams) == {
        "in_features", "num_classes", "hidden_sizes", "activation", "dropout", "batch_norm", "label_smoothing",
        "l1", "l2",
    }  # fmt: skip
