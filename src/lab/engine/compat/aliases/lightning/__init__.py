"""Gives pytorch_lightning and lightning_fabric, and all their modules, the names under which `lightning` has them."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

REAL = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}


class AliasFinder(MetaPathFinder, Loader):
    """Finds a module of one package under its name in another, and leaves the module as it is."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = find_spec(real) if (real := _real_name(fullname)) else None
        if found is None:
            return None
        spec = ModuleSpec(fullname, self, origin=found.origin)
        spec.submodule_search_locations = found.submodule_search_locations
        return spec

    def exec_module(self, module: ModuleType) -> None:
        # The import system takes the module from `sys.modules`; into one from `create_module` it would write its spec
        alias = module.__name__
        sys.modules[alias] = import_module(_real_name(alias))


def _real_name(name: str) -> str:
    """Returns the name of the module that `name` is an alias of; an empty one for none."""
    alias = ".".join(name.split(".")[:2])
    return REAL[alias] + name.removeprefix(alias) if alias in REAL else ""


sys.meta_path.insert(0, AliasFinder())  # before that of files, which would load a second copy

import lightning_fabric as fabric  # noqa: E402
import pytorch_lightning as pytorch  # noqa: E402
from lightning_fabric import Fabric  # noqa: E402
from pytorch_lightning import (  # type: ignore[attr-defined]  # noqa: E402
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from pytorch_lightning.__version__ import version as __version__  # noqa: E402

# Imported again, each would be set in its package: `__version__`, which is a text there, would become a module
for name, module in [*sys.modules.items()]:
    for package, real in REAL.items():
        if f"{name}.".startswith(f"{real}."):
            alias = package + name.removeprefix(real)
            sys.modules[alias] = module

__all__ = [
    "Callback",
    "Fabric",
    "LightningDataModule",
    "LightningModule",
    "Trainer",
    "__version__",
    "fabric",
    "pytorch",
    "seed_everything",
]
