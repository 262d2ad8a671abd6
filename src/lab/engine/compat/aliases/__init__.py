"""Lets code that imports `lightning` run here: pytorch_lightning's Trainer refuses that package's copies of classes.

This folder holds a module `lightning` of our own, whose names are those of pytorch_lightning and lightning_fabric.

Public wish: one of the two packages is an alias of the other.
"""

import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def import_foreign(name: str) -> ModuleType:
    """Imports a module of the user's, whose `import lightning` finds our module; one imported before stays.

    By a folder in `sys.path`, which spawned processes take over: workers of a DataLoader import such modules, too.
    """
    folder = str(Path(__file__).parent)
    if sys.path[0] != folder:  # before a `lightning` that is installed
        sys.path[:] = [folder, *(path for path in sys.path if path != folder)]
    return import_module(name)


def real_target(target: Any) -> Any:
    """Returns pytorch_lightning's name of a class that a config names `lightning.Name` or `lightning.pytorch.…`."""
    is_alias = isinstance(target, str) and re.match(r"lightning\.([A-Z]|pytorch\.)", target)
    return f"pytorch_{target.replace('.pytorch.', '.', 1)}" if is_alias else target
