"""Code that imports `lightning` is given pytorch_lightning, whatever way it is written; nothing else changes."""

import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import lightning_fabric
import pytest
import pytorch_lightning as pl
from lightning_utilities.core.imports import RequirementCache, module_available
from torch.utils.data import DataLoader

from lab.engine.compat.aliases import import_foreign
from lab.engine.config.instantiate import instantiate, locate
from lab.engine.config.overrides import to_override
from lab.engine.config.schema_cache import configured_classes
from lab.engine.utils.errors import UserError
from lab.engine.utils.paths import ROOT
from tests.conftest import accepted, refusal
from tests.engine.training.test_foreign import checkout, metrics, run, write

__all__ = ["checkout"]  # the fixture

# The three ways of packages on PyPI
THEIRS = {
    "whole": "import lightning as L\nclass Net(L.LightningModule): ...\nclass Rows(L.LightningDataModule): ...",
    "part": "from lightning import pytorch as pl\nclass Net(pl.LightningModule): ...\nSeed = pl.seed_everything",
    "deep": "from lightning.pytorch.callbacks import EarlyStopping\nclass Early(EarlyStopping): ...\n"
    "from lightning.fabric.utilities.seed import seed_everything\nimport lightning.pytorch.utilities.memory as memory",
    "rows": "import torch\nfrom lightning.pytorch.demos.boring_classes import RandomDataset\n"
    "class Rows(RandomDataset):\n    def __init__(self): super().__init__(4, 8)",
}


@pytest.fixture(autouse=True)
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `theirs` that nobody has imported; what importing it changes in this process is put back."""
    (tmp_path / "theirs").mkdir()
    for name, text in THEIRS.items():
        (tmp_path / "theirs" / f"{name}.py").write_text(text + "\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("theirs", "lightning")]:
        del sys.modules[name]


def test_classes_are_identical() -> None:
    whole, part, deep = (import_foreign(f"theirs.{name}") for name in ("whole", "part", "deep"))
    assert issubclass(whole.Net, pl.LightningModule)
    assert issubclass(whole.Rows, pl.LightningDataModule)
    assert part.pl is pl
    assert issubclass(deep.Early, pl.callbacks.EarlyStopping)
    assert deep.seed_everything is part.Seed is pl.seed_everything
    assert deep.memory is pl.utilities.memory
    for name in ("Trainer", "LightningModule", "LightningDataModule", "Callback", "seed_everything", "__version__"):
        assert getattr(whole.L, name) is getattr(pl, name)
    assert whole.L.Fabric is lightning_fabric.Fabric
    assert (whole.L.pytorch, whole.L.fabric) == (pl, lightning_fabric)


def test_modules_stay_what_they_are() -> None:
    """Names, specs, loaders and all that they hold; and so pickles and sources."""
    loaded = [name for name in sys.modules if name.partition(".")[0] in ("pytorch_lightning", "lightning_fabric")]
    before = {name: (sys.modules[name], dict(vars(sys.modules[name]))) for name in loaded}
    import_foreign("theirs.whole")
    for name in loaded:
        alias = name.replace("pytorch_lightning", "lightning.pytorch", 1).replace(
            "lightning_fabric", "lightning.fabric"
        )
        assert import_module(alias) is sys.modules[name]
    assert len(loaded) > 100
    for name, (module, variables) in before.items():
        assert sys.modules[name] is module
        for variable, value in variables.items():
            assert getattr(module, variable) is value, f"{name}.{variable}"
    module = import_foreign("lightning.pytorch.callbacks.early_stopping").EarlyStopping
    assert module.__module__ == "pytorch_lightning.callbacks.early_stopping"
    assert pickle.loads(pickle.dumps(module)) is module
    assert inspect.getmodule(module) is sys.modules["pytorch_lightning.callbacks.early_stopping"]
    assert "class EarlyStopping" in inspect.getsource(module)


def test_what_is_not_there_is_not_there() -> None:
    import_foreign("theirs.deep")
    for name in ("lightning.pytorch.no_such", "lightning.fabric.no_such", "lightning.app", "lightning.pytorchx"):
        assert find_spec(name) is None
        with pytest.raises(ModuleNotFoundError, match=name.rpartition(".")[2]):
            import_module(name)


def test_libraries_that_look_for_lightning_find_a_module_and_no_distribution() -> None:
    import_foreign("theirs.deep")
    for name in ("lightning", "lightning.pytorch", "lightning.pytorch.callbacks", "lightning.fabric.utilities.seed"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin
        assert module_available(name)
    if "lightning" not in {distribution.name for distribution in metadata.distributions()}:
        with pytest.raises(metadata.PackageNotFoundError):
            metadata.version("lightning")
        assert not RequirementCache("lightning>=2.0")
    assert metadata.version("pytorch-lightning") == sys.modules["lightning"].__version__


def test_editors_know_such_classes() -> None:
    assert configured_classes(["model: {_target_: theirs.whole.Net}"])["theirs.whole.Net"].__name__ == "Net"


def test_configs_may_name_classes_of_lightning() -> None:
    early = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss"}
    assert type(instantiate(early | {"patience": 7})) is pl.callbacks.EarlyStopping
    assert locate("lightning.Trainer") is pl.Trainer
    accepted("model=mlp", f"+callbacks.early={to_override(early)}")
    assert "patence" in refusal("model=mlp", f"+callbacks.early={to_override(early | {'patence': 7})}")
    for name in ("lightning.pytorch.cli.LightningCLI", "lightning.fabric.Fabric", "lightning.no_such"):
        with pytest.raises(UserError, match="not allowed"):
            locate(name)


def test_it_loads_no_torch_by_itself(tmp_path: Path) -> None:
    probe = (
        "import sys\nfrom importlib.util import find_spec\n"
        "from lab.engine.compat.aliases import import_foreign\nimport_foreign('json')\n"
        "sys.exit('torch' in sys.modules or find_spec('lightning') is None)\n"
    )
    environment = {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", probe], env=environment, cwd=tmp_path, timeout=60, check=True)


def installed(folder: Path) -> None:
    """Installs a package `lightning` whose classes are its own, as those of the real one are."""
    (folder / "lightning").mkdir()
    text = "import torch\nclass LightningModule(torch.nn.Module): ...\nclass LightningDataModule: ...\n"
    (folder / "lightning" / "__init__.py").write_text(text)


def test_a_lightning_that_is_merely_installed_comes_second(theirs: Path) -> None:
    installed(theirs)
    assert issubclass(locate("theirs.whole.Net", ["theirs"]), pl.LightningModule)


def test_a_lightning_that_is_imported_already_is_told_apart(theirs: Path) -> None:
    installed(theirs)
    other = import_module("lightning")
    for name in ("Net", "Rows"):
        with pytest.raises(UserError, match="lightning, and not pytorch_lightning's") as told:
            locate(f"theirs.whole.{name}", ["theirs"])
        assert f"theirs.whole.{name}" in str(told.value)
        assert "\n" not in str(told.value)
    assert sys.modules["lightning"] is other


@pytest.mark.slow
def test_a_spawned_worker_imports_such_code_too() -> None:
    rows = import_foreign("theirs.rows").Rows()
    batches = [*DataLoader(rows, batch_size=4, num_workers=1, multiprocessing_context="spawn")]
    assert [batch.shape for batch in batches] == [(4, 4), (4, 4)]


# --- in runs --------------------------------------------------------------------------------------------------------

MODEL = """
    import lightning as L
    import torch
    from torch import nn


    class Net(L.LightningModule):
        def __init__(self, hidden=8, lr=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 1))

        def forward(self, x):
            return self.net(x)

        def loss(self, batch):
            return (self(batch) - batch.sum(1, keepdim=True)).square().mean()

        def training_step(self, batch, batch_idx):
            return self.loss(batch)

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.loss(batch), sync_dist=True)

        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.loss(batch), sync_dist=True)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
"""
DATA = """
    import torch
    from lightning import pytorch as pl
    from torch.utils.data import DataLoader


    class Rows(pl.LightningDataModule):
        def loader(self):
            x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
            return DataLoader([*x], batch_size=8, num_workers=1)

        train_dataloader = val_dataloader = test_dataloader = loader
"""
STOP = """
    from lightning.pytorch.callbacks import EarlyStopping


    class Stop(EarlyStopping):
        def on_fit_start(self, trainer, pl_module):
            print("theirs", type(pl_module).__name__, trainer.world_size)
"""
CONFIGS = {
    "model/theirs.yaml": """
        # @package _global_
        model: {_target_: theirs.model.Net, hidden: 4}
        objective: {metric: val_loss, mode: min}
    """,
    "data/theirs.yaml": """
        # @package _global_
        data: {_target_: theirs.data.Rows}
    """,
}
RUN = [
    "model=theirs",
    "data=theirs",
    "+callbacks.stop={_target_:theirs.stop.Stop,monitor:val_loss}",
    "+callbacks.empty={_target_:lightning.pytorch.callbacks.LambdaCallback}",
]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_such_code_is_trained_resumed_and_opened(ranks: int, checkout: Path, tmp_path: Path) -> None:
    write(checkout / "configs", CONFIGS)
    write(checkout / "src" / "theirs", {"__init__.py": "", "model.py": MODEL, "data.py": DATA, "stop.py": STOP})
    trainer = ["trainer=cpu"] if ranks == 1 else ["trainer=ddp_cpu", "trainer.use_distributed_sampler=true"]
    paths = f"paths.log_dir={tmp_path}/logs"
    said = run(checkout, "src/train.py", *RUN, *trainer, "trainer.max_epochs=1", paths)
    assert said.count(f"theirs Net {ranks}") == ranks
    said = run(checkout, "src/train.py", "resume=latest", "trainer.max_epochs=2", paths)
    assert "resuming from" in said
    latest = (tmp_path / "logs" / "latest").resolve()
    assert {"val_loss", "test_loss"} <= set(metrics(latest))
    if ranks == 1:
        run(checkout, "scripts/evaluate.py", f"run={latest}")
        [evaluation] = latest.glob("evaluation-*.json")
        assert json.loads(evaluation.read_text())["test_loss"] == metrics(latest)["test_loss"]
