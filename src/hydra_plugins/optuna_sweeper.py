"""Sweeps over values that Optuna draws: `src/train.py -m hydra/sweeper=optuna 'optimizer.lr=interval(1e-4,1e-1)'`."""

from lab.engine.sweeps.search import Search


class OptunaSweeper(Search):
    """Is the class that Hydra finds by this name; see `lab.engine.sweeps.search`."""
