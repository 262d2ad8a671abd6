"""Where a run came from: the code, its changes against the last commit, the versions, the machine.

Nothing here may fail a run: what cannot be found out is None or empty.
"""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lab.engine.utils.git import git
from lab.engine.utils.paths import ROOT

PACKAGES = ["torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "polars", "numpy"]


def facts(root: Path = ROOT) -> dict[str, Any]:
    """What `run.json` says of a run's origin.

    Args:
        root: the checkout.

    Returns:
        argv, git (commit, branch, dirty; None outside a repository), versions, hostname, platform, cpus, and
        omp_num_threads from the environment (None where it is not set): sums depend on the number of threads.
    """
    return {
        "argv": sys.argv,
        "git": git(root),
        "versions": versions(),
        "hostname": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that figures depend on; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
