"""For check_configs.py: signatures and lists of names as Python and Lightning have them, everything imported."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from hydra.utils import get_object

from lab.engine.compat.lightning import precisions
from lab.engine.config.checks.limits import CHOICES
from lab.engine.utils.errors import UserError


def hold(key: str, node: dict[str, Any]) -> None:
    """Holds a node against the signature of what it is built from, `**kwargs` followed to the bases.

    What is built later from parameters, an optimizer or a schedule, is built here from a small one.

    Raises:
        UserError: on a key that is not taken.
    """
    target = get_object(node["_target_"])
    given = {k: v for k, v in node.items() if not k.startswith("_")}
    if node.get("_partial_"):
        weight = torch.nn.Parameter(torch.zeros(2, 2))
        taken = inspect.signature(target).parameters
        if "params" in taken:
            target(params=[weight], **given)
        else:
            steps = {"total_steps": 10} if "total_steps" in taken else {}
            target(optimizer=torch.optim.SGD([weight], lr=0.1, momentum=0.9), **steps, **given)
        return
    known = parameters(target)
    if known is not None and (unknown := sorted(set(given) - known)):
        raise UserError(f"{key}.{unknown[0]}: {node['_target_']} takes no such argument")


def parameters(target: Any) -> set[str] | None:
    """What a class or function takes by name; None where it takes anything."""
    found: set[str] = set()
    for function in (
        [vars(c)["__init__"] for c in target.__mro__ if "__init__" in vars(c)] if inspect.isclass(target) else [target]
    ):
        each = inspect.signature(function).parameters
        found |= set(each)
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in each.values()):
            return found
    return None


def lists() -> Iterator[str]:
    """Where the lists of `lab.engine.config.checks.limits` are not those of Lightning."""
    from pytorch_lightning.accelerators import AcceleratorRegistry
    from pytorch_lightning.strategies import StrategyRegistry

    theirs = {
        "trainer.strategy": {"auto", *StrategyRegistry.available_strategies()},
        "trainer.accelerator": {"auto", "gpu", *AcceleratorRegistry.available_accelerators()},
        "trainer.precision": precisions(),
    }
    for key, names in theirs.items():
        for name in sorted(names ^ set(CHOICES[key])):
            yield f"limits.CHOICES[{key!r}]: {name} is {'missing' if name in names else 'not in Lightning'}"
