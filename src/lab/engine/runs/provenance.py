"""Collects the origin of a run: code, versions, machine.

Nothing here may fail a run: what cannot be determined is None or empty.
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


def collect_metadata(root: Path = ROOT) -> dict[str, Any]:
    """Collects the metadata of `run.json` that describe a run's origin.

    Args:
        root: the checkout.

    Returns:
        argv, git (commit, branch, dirty; None outside a repository), versions, hostname, platform, cpus, and
        omp_num_threads from the environment (None where it is not set): sums depend on the number of threads.
    """
    return {
        "argv": sys.argv,
        "git": git(root),
        "versions": package_versions(),
        "hostname": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages that metrics depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
