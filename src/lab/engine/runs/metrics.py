"""Tells which direction of a metric is better, and which metric compares runs by default. Loads no torch."""

import re
from collections.abc import Iterable, Sequence

Objective = tuple[str, str]  # a metric, and min or max

# Parts of the names of metrics that are better when higher
HIGHER = {
    *("acc", "accuracy", "f1", "precision", "recall", "r2", "score", "modes", "auroc", "auc", "map", "iou", "dice"),
    *("bleu", "rouge", "psnr", "ssim", "reward", "return", "elbo", "likelihood"),
}
LOWER = {"loss", "error", "err", "nll", "mse", "mae", "rmse", "ppl", "perplexity", "ratio"}  # these win over HIGHER
STAGES = ("test", "val", "train")


def direction(metric: str, objectives: Sequence[Objective] = (), mode: str | None = None) -> str:
    """Returns whether `min` or `max` of `metric` is better.

    Args:
        metric: such as `test/acc` or `val_loss`; a `..._gap` has the direction of its metric.
        objectives: of the runs; one for the same metric at any stage decides.
        mode: chosen by the user; decides before everything else.
    """
    if mode is not None:
        return mode
    name = _without_stage(metric)
    for objective, objective_mode in objectives:
        if _without_stage(objective) == name:
            return objective_mode
    parts = set(re.split(r"[^a-z0-9]+", name.lower()))
    return "max" if parts & HIGHER and not parts & LOWER else "min"


def default_metric(metrics: Iterable[str]) -> str:
    """Returns the metric that compares runs without an objective: a loss if there is one, of the test if there is one.

    A `cost/...` only where there is nothing else.
    """

    def rank(name: str) -> tuple[bool, bool, int]:
        stage = next((i for i, stage in enumerate(STAGES) if name.startswith(stage)), len(STAGES))
        return name.startswith("cost/"), "loss" not in name, stage

    return min(metrics, key=rank)


def at_test(metric: str) -> str:
    """Returns the name at test of a training or validation metric: `test/acc` for `val/acc`."""
    return re.sub(r"^(val|train)(?=[/_])", "test", metric)


def _without_stage(metric: str) -> str:
    name = re.sub(r"^(val|train|test)[/_]", "", metric)
    return re.sub(r"_(excess|gap)$", "", name).rpartition("/")[2]
