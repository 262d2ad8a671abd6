"""Tells whether lower or higher is better for a metric, and chooses the metric to compare runs by. Loads no torch."""

import re
from collections.abc import Iterable, Sequence

from lab.engine.utils.errors import UserError

Objective = tuple[str, str]  # a metric, and min or max

# Words of a metric's name that tell its direction; LOWER wins over HIGHER: `acc_loss` is a loss
HIGHER = {
    *("acc", "accuracy", "f1", "precision", "recall", "sensitivity", "specificity", "r2", "auroc", "auc", "auprc"),
    *("ap", "map", "iou", "miou", "jaccard", "dice", "mcc", "kappa", "ndcg", "mrr", "bleu", "rouge", "psnr", "ssim"),
    *("elbo", "reward", "return"),
}
LOWER = {
    *("loss", "error", "err", "nll", "bce", "mse", "mae", "rmse", "mape", "ppl", "perplexity", "bpd", "bpc", "wer"),
    *("cer", "ece", "brier", "fid", "frechet", "lpips"),
}
# Names that tell it only when they are the whole name: sklearn's `score`, that of Salimans et al. (2016), and the modes
# that a generator covers; of an `anomaly_score` lower may be better
HIGHER_ALONE = ({"score"}, {"modes"})
STAGES = ("test", "val", "train")
# Words that say where a metric was measured; a `…_gap` to the best possible value has the direction of its metric
PLACES = {*STAGES, "valid", "validation", "training", "testing", "eval", "epoch", "step", "gap"}
WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")  # `val`, `Binary`, `F1`, `Score` of val_BinaryF1Score


def direction(metric: str, objectives: Sequence[Objective] = (), mode: str | None = None) -> str:
    """Returns `min` if a lower value of `metric` is better, else `max`.

    Args:
        metric: such as `test/acc` or `val_loss`.
        objectives: of the runs; the first one for the same metric at any stage decides.
        mode: chosen by the user; decides before everything else.

    Raises:
        UserError: when none of them tells, and neither does the name.
    """
    if mode is not None:
        return mode
    words = _words(metric)
    for objective, objective_mode in objectives:
        if _words(objective) == words:
            return objective_mode
    known = {*words, *(word.rstrip("0123456789") for word in words), *re.split(r"[^a-z0-9]+", metric.lower())}
    if metric.startswith("cost/") or known & LOWER:
        return "min"
    if known & HIGHER or {*words} in HIGHER_ALONE:
        return "max"
    raise UserError(f"metric={metric}: its name does not tell whether higher or lower is better: give mode=max or min")


def default_metric(metrics: Iterable[str]) -> str:
    """Returns the metric to compare runs without an objective by: preferably a loss, preferably of the test.

    A `cost/...` only where there is nothing else.
    """

    def rank(name: str) -> tuple[bool, bool, int]:
        stage = next((i for i, stage in enumerate(STAGES) if name.startswith(stage)), len(STAGES))
        return name.startswith("cost/"), "loss" not in name, stage

    return min(metrics, key=rank)


def at_test(metric: str) -> str:
    """Returns the name that a training or validation metric has at test: `test/acc` for `val/acc`."""
    return re.sub(r"^(val|train)(?=[/_])", "test", metric)


def _words(metric: str) -> list[str]:
    """Splits a metric's name into lowercase words, without those that say where it was measured."""
    name = re.sub(r"/dataloader_idx_\d+$", "", metric)  # Lightning's, of several loaders
    return [word for word in map(str.lower, WORD.findall(name)) if word not in PLACES]
