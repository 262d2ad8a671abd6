"""Says of a metric which direction is better, and which one runs are judged by. Loads no torch."""

import re
from collections.abc import Iterable, Sequence

Objective = tuple[str, str]  # a metric, and min or max

# Words in the name of a metric of which more is better
HIGHER = {
    *("acc", "accuracy", "f1", "precision", "recall", "r2", "score", "modes", "auroc", "auc", "map", "iou", "dice"),
    *("bleu", "rouge", "psnr", "ssim", "reward", "return", "elbo", "likelihood"),
}
LOWER = {"loss", "error", "err", "nll", "mse", "mae", "rmse", "ppl", "perplexity", "ratio"}  # they win over HIGHER
STAGES = ("test", "val", "train")


def direction(metric: str, objectives: Sequence[Objective] = (), mode: str | None = None) -> str:
    """Returns `min` or `max`, whichever is better of `metric`.

    Args:
        metric: such as `test/acc` or `val_loss`; how far one lies from its best value goes like the metric itself.
        objectives: of the runs; that of the same name at another stage decides.
        mode: what the user says, which decides before all.
    """
    if mode is not None:
        return mode
    name = _without_stage(metric)
    for known, its_mode in objectives:
        if _without_stage(known) == name:
            return its_mode
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    return "max" if words & HIGHER and not words & LOWER else "min"


def default_metric(known: Iterable[str]) -> str:
    """Returns what runs without an objective are judged by: a loss before other metrics, of the test before others, a
    cost where there is nothing else.
    """

    def rank(name: str) -> tuple[bool, bool, int]:
        stage = next((i for i, stage in enumerate(STAGES) if name.startswith(stage)), len(STAGES))
        return name.startswith("cost/"), "loss" not in name, stage

    return min(known, key=rank)


def at_test(metric: str) -> str:
    """Returns the name that a metric of training or validation has at the test: `test/acc`, `test_loss`."""
    return re.sub(r"^(val|train)(?=[/_])", "test", metric)


def _without_stage(metric: str) -> str:
    name = re.sub(r"^(val|train|test)[/_]", "", metric)
    return re.sub(r"_(excess|gap)$", "", name).rpartition("/")[2]
