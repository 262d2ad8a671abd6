"""The fast path does what Lightning's own loop does, for anybody's code, and stands back where it could not."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringDataModule, BoringModel, ManualOptimBoringModel
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lab.engine.compat.lightning import FitLoop, find_unused_parameters, logged_steps, uses_no_batch_hooks
from lab.engine.distributed.preemption import SignalHandler
from lab.engine.training.build import build
from lab.engine.training.model import explain_errors
from lab.engine.utils.errors import UserError
from tests.conftest import SMALL, Compose

RUN = [
    *SMALL,
    "model=mlp",
    "model.dropout=0.1",
    "data.batch_size=50",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=4",
]


def fit(cfg: Compose, tmp_path: Path, *overrides: str) -> dict[str, Any]:
    module, data, trainer = build(cfg(*RUN, f"paths.run_dir={tmp_path}", "logger=csv", *overrides))
    trainer.fit(module, datamodule=data)
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    lines = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()
    speed = lines[0].split(",").index("train/samples_per_second")
    return {
        "weights": kept["state_dict"],
        "optimizer": kept["optimizer_states"],
        "schedule": kept["lr_schedulers"],
        "loops": kept["loops"],
        "curve": [line.split(",")[:speed] + line.split(",")[speed + 1 :] for line in lines],
    }


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["scheduler=plateau"],
        ["scheduler=cosine", "scheduler.frequency=2"],
        ["trainer.val_check_interval=0.5"],
        ["trainer.max_steps=17"],
        ["trainer.check_val_every_n_epoch=2"],
        ["trainer.limit_train_batches=7"],
        pytest.param(["optimizer=lbfgs", "scheduler=none", "trainer.max_epochs=1"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_it_trains_and_logs_as_lightnings_does(overrides: list[str], cfg: Compose, tmp_path: Path) -> None:
    theirs = fit(cfg, tmp_path / "theirs", "fast_loop=false", *overrides)
    ours = fit(cfg, tmp_path / "ours", *overrides)
    assert ours["curve"] == theirs["curve"]
    assert ours["loops"] == theirs["loops"]
    assert ours["schedule"] == theirs["schedule"]
    for name, value in theirs["weights"].items():
        assert torch.equal(ours["weights"][name], value), name
    for a, b in zip(ours["optimizer"][0]["state"].values(), theirs["optimizer"][0]["state"].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


class Plain(pl.LightningModule):
    """A model as anybody writes one, on dict batches."""

    def __init__(self, kind: str, optimizer: type[torch.optim.Optimizer] = torch.optim.Adam) -> None:
        super().__init__()
        self.kind, self.optimizer = kind, optimizer
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        if self.kind == "none at times" and batch_idx % 3 == 0:
            return None
        loss = (self.net(batch["x"]) - batch["y"]).square().mean()
        self.log("train_loss", loss)
        return {"loss": loss, "more": "text"} if self.kind == "dict" else loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.log("val_loss", (self.net(batch["x"]) - batch["y"]).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters(), lr=0.01)  # type: ignore[call-arg]
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class OneArgument(Plain):
    def training_step(self, batch: dict[str, Tensor]) -> Any:  # type: ignore[override]
        return super().training_step(batch, 1)


class Moved(Plain):
    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        return {"x": 2 * batch["x"], "y": batch["y"]}


class NeedsClosure(torch.optim.SGD):
    """Asks for the loss twice, and will not step without it."""

    def step(self, closure: Any = None) -> Any:
        first, second = closure(), closure()
        super().step()
        return min(first, second)


MODELS = {
    "a dict": lambda: Plain("dict"),
    "a tensor": lambda: Plain("tensor"),
    "none at times": lambda: Plain("none at times"),
    "one argument": lambda: OneArgument("tensor"),
    "a transfer hook": lambda: Moved("tensor"),
    "a closure": lambda: Plain("tensor", NeedsClosure),
    "L-BFGS": lambda: Plain("tensor", torch.optim.LBFGS),
}


@pytest.mark.parametrize("name", MODELS)
def test_anybodys_model_on_plain_loaders_trains_to_the_bit_as_lightning_trains_it(name: str, tmp_path: Path) -> None:
    rows = [{"x": torch.randn(4), "y": torch.randn(1)} for _ in range(40)]

    def train(fast: bool | None) -> tuple[dict[str, Any], dict[str, Any], str]:
        pl.seed_everything(0, verbose=False)
        folder = tmp_path / str(fast)
        logger = pl.loggers.CSVLogger(folder, name="", version="")
        options: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": logger}
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=3, log_every_n_steps=2, enable_model_summary=False, **options
        )
        if fast is not None:
            trainer.fit_loop = FitLoop(trainer, SignalHandler(), fast=fast)
        model = MODELS[name]()
        with warnings.catch_warnings():  # Lightning's advice about workers, and about steps that are skipped
            warnings.simplefilter("ignore")
            trainer.fit(model, DataLoader(rows, 8, shuffle=True), DataLoader(rows, 8))
        assert uses_no_batch_hooks(trainer)
        return model.state_dict(), trainer.fit_loop.state_dict(), (folder / "metrics.csv").read_text()

    expected, loops, curve = train(None)
    for fast in (True, False):
        found, found_loops, found_curve = train(fast)
        assert all(torch.equal(found[key], value) for key, value in expected.items())
        assert found_loops == loops
        assert found_curve == curve


def test_manual_optimization_is_left_to_lightning() -> None:
    trainer = pl.Trainer(accelerator="cpu", fast_dev_run=True, enable_model_summary=False, enable_progress_bar=False)
    trainer.fit_loop = FitLoop(trainer, SignalHandler())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(ManualOptimBoringModel(), BoringDataModule())
    assert not uses_no_batch_hooks(trainer)
    assert trainer.global_step == 1


def test_loggers_go_on_with_the_batch_and_not_with_the_optimizers_steps(tmp_path: Path) -> None:
    class Two(ManualOptimBoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizers: Any = self.optimizers()
            for optimizer in optimizers:
                optimizer.zero_grad()
                self.manual_backward(self.step(batch))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    options: dict[str, Any] = {"enable_model_summary": False, "enable_progress_bar": False, "logger": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=0,
        enable_checkpointing=False,
        **options,
    )
    trainer.fit_loop = FitLoop(trainer, SignalHandler())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Two(), BoringDataModule())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (checkpoint["global_step"], logged_steps(checkpoint)) == (12, 6)


@pytest.mark.parametrize("fast", [True, False])
def test_a_fit_that_is_told_to_stop_ends_after_the_batch(fast: bool) -> None:
    class Stopper(pl.Callback):
        boundaries: list[tuple[int, bool]] = []

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 3:
                trainer.fit_loop.stop()

        def on_step_boundary(self, trainer: pl.Trainer, end_of_epoch: bool, stopping: bool) -> None:
            self.boundaries.append((trainer.global_step, end_of_epoch))

    stopper = Stopper()
    stopper.boundaries = []
    options: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=3, enable_model_summary=False, callbacks=[stopper], **options)
    trainer.fit_loop = FitLoop(trainer, SignalHandler(), fast=fast)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(BoringModel(), BoringDataModule())
    assert trainer.fit_loop.stopped
    assert trainer.global_step == 3
    assert stopper.boundaries == [(1, False), (2, False), (3, False), (3, True)]


class Numbers:
    """A loader with a state: the numbers up to six, over and over, in batches of one."""

    def __init__(self) -> None:
        self.next = 0

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(self.next, 6):
            self.next = (number + 1) % 6
            yield torch.full((1, 32), float(number))

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class Estimating(BoringModel):
    """Makes its schedule as Lightning's documentation does."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []

    def train_dataloader(self) -> Any:
        return Numbers()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # type: ignore[override]
        self.numbers.append(int(batch[0, 0]))
        return self.layer(batch).sum()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [
            torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=int(self.trainer.estimated_stepping_batches))
        ]


def test_a_model_that_estimates_its_steps_resumes_with_the_next_batch(tmp_path: Path) -> None:
    """Lightning itself drops the state of the loader then, and trains on the first batches again."""

    class Saver(pl.Callback):
        def on_step_boundary(self, trainer: pl.Trainer, end_of_epoch: bool, stopping: bool) -> None:
            if trainer.global_step == 10 and not end_of_epoch:
                trainer.save_checkpoint(tmp_path / "ten.ckpt")

    def fit(checkpoint: Path | None = None) -> list[int]:
        options: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": False}
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=3, limit_val_batches=0, enable_model_summary=False, callbacks=[Saver()],
            **options,
        )  # fmt: skip
        trainer.fit_loop = FitLoop(trainer, SignalHandler())
        model = Estimating()
        trainer.fit(model, ckpt_path=checkpoint, weights_only=True)
        assert trainer.global_step == 18
        return model.numbers

    straight = fit()
    assert straight == [*range(6)] * 3
    assert fit(tmp_path / "ten.ckpt") == straight[10:]


class Watcher(pl.Callback):
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen = True


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.gradient_clip_val=1.0"],
        ["trainer.accumulate_grad_batches=2"],
        ["trainer.precision=bf16-mixed"],
        ["trainer.profiler=simple"],
        ["trainer.detect_anomaly=true"],
    ],
    ids=" ".join,
)
def test_it_stands_back_where_a_run_needs_what_it_leaves_out(overrides: list[str], cfg: Compose) -> None:
    module, data, trainer = build(cfg(*RUN, "callbacks=none", "logger=none", "trainer.max_epochs=1", *overrides))
    trainer.fit(module, datamodule=data)
    assert not uses_no_batch_hooks(trainer)
    assert trainer.global_step > 0


def test_a_callback_on_a_hook_is_called(cfg: Compose) -> None:
    watcher = Watcher()
    module, data, trainer = build(cfg(*RUN, "callbacks=none", "logger=none", "trainer.max_epochs=1"), [watcher])
    trainer.fit(module, datamodule=data)
    assert watcher.seen


def test_a_step_that_logs_by_itself_is_logged(cfg: Compose, tmp_path: Path) -> None:
    class Noter(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: pl.LightningModule, *_: object) -> None:
            pl_module.log("noted", float(trainer.global_step))
            pl_module.log("average", float(trainer.global_step), on_step=False, on_epoch=True)

    def noted(quick: bool) -> list[str]:
        directory = tmp_path / str(quick)
        module, data, trainer = build(
            cfg(*RUN, f"paths.run_dir={directory}", "logger=csv", "callbacks=none", f"fast_loop={quick}"), [Noter()]
        )
        trainer.fit(module, datamodule=data)
        return (directory / "csv" / "metrics.csv").read_text().splitlines()

    assert noted(quick=True) == noted(quick=False)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("given", [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.5}], ids=str)
def test_what_lightning_leaves_to_a_module_under_manual_optimization_is_refused_in_words(given: dict[str, Any]) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", fast_dev_run=2, enable_progress_bar=False, enable_model_summary=False, **given
    )  # fmt: skip
    with pytest.raises(UserError, match="not supported for manual optimization"), explain_errors(8, 1):
        trainer.fit(ManualOptimBoringModel())


def test_ddp_looks_for_unused_parameters_unless_told_otherwise() -> None:
    asked = (
        pl.Trainer(accelerator="cpu", devices=2, strategy=f"ddp{name}")
        for name in ("", "_find_unused_parameters_false")
    )
    for trainer, expected in zip(asked, (True, False), strict=True):
        find_unused_parameters(trainer)
        assert trainer.strategy._ddp_kwargs["find_unused_parameters"] is expected  # type: ignore[attr-defined]
    find_unused_parameters(pl.Trainer(accelerator="cpu", devices=1))  # nothing to tell
