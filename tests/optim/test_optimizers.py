"""Optimizers and schedules."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from lab.engine.training.train import build
from lab.engine.utils.errors import UserError
from lab.models.mlp import MLP
from lab.optim.optimizers import AdamW
from lab.optim.schedulers import OneCycle, cosine
from tests.conftest import SMALL, Compose, choices


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


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], 15),
        (["trainer.accumulate_grad_batches=2"], 9),
        (["trainer.limit_train_batches=4"], 12),
        (["trainer.max_steps=7"], 7),
        (["trainer.max_epochs=-1", "trainer.max_steps=8"], 8),
        (["trainer.overfit_batches=2"], 6),
    ],
)
def test_onecycle_ends_with_the_fit(overrides: list[str], steps: int, cfg: Compose) -> None:
    module, data, trainer = build(
        cfg(*SMALL, "data.batch_size=100", "callbacks=none", "logger=none", "trainer.max_epochs=3", *overrides)
    )
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == steps
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == steps  # type: ignore[union-attr]


def test_a_schedule_without_an_end_is_refused(cfg: Compose) -> None:
    module, data, trainer = build(cfg(*SMALL, "callbacks=none", "logger=none", "trainer.max_epochs=-1"))
    with pytest.raises(UserError, match="scheduler=none"):
        trainer.fit(module, datamodule=data)


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
