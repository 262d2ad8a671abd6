"""Values that Optuna draws: `python src/train.py -m hydra/sweeper=optuna 'optimizer.lr=interval(1e-4,1e-1)'`."""

from lab.engine.sweeps.search import Search


class OptunaSweeper(Search):
    """What Hydra finds by this name; see `lab.engine.sweeps.search`."""
