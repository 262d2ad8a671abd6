"""How much each key matters for the best runs, of sweeps and grids alike.

Source: PED-ANOVA, Watanabe et al. 2023, as Optuna has it.
"""

import warnings
from typing import Any

from lab.engine.analysis.columns import text
from lab.engine.analysis.comparison import Comparison
from lab.engine.analysis.hyperparameter_plots import Point, is_numeric, varied
from lab.engine.analysis.plots import PALETTE, Figure, axis, figure, is_wide, plain
from lab.engine.analysis.statistics import EXTRA

LEAST = 10  # runs
TOP = 5  # runs that the best share must have for a density, as Optuna advises


def importances(comparison: Comparison, points: list[Point]) -> tuple[dict[str, float], str]:
    """The share of each varied key, the highest first, and where there is none the reason."""
    keys = varied(comparison, points)
    if not keys:
        return {}, "nothing was varied"
    if len(points) < LEAST:
        return {}, f"it takes {LEAST} runs that have ended with a figure, and there are {len(points)}"
    if len({value for *_, value in points}) < 2:
        return {}, f"{comparison.metric} is the same in every run"
    try:
        import optuna
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    except ImportError:
        return {}, f"it needs Optuna: {EXTRA}"
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that few runs have
            study = optuna.create_study(direction="maximize" if comparison.mode == "max" else "minimize")
            domains = {key: _domain(key, points) for key in keys}
            for _, values, figure_ in points:
                here = [key for key in keys if key in values]
                study.add_trial(
                    optuna.create_trial(
                        params={key: _param(domains[key], values[key]) for key in here},
                        distributions={key: domains[key] for key in here},
                        value=figure_,
                    )
                )
            share = max(0.1, TOP / len(points))
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=share))
    finally:
        optuna.logging.set_verbosity(before)
    if not sum(found.values()):
        return {}, "the best runs are spread like all the others"
    return dict(sorted(found.items(), key=lambda item: -item[1])), ""


def draw_importances(shares: dict[str, float]) -> Figure:
    """A bar for each key."""
    keys = list(shares)[::-1]
    bars = {
        "type": "bar", "orientation": "h", "x": [shares[key] for key in keys], "y": [plain(key) for key in keys],
        "marker": {"color": PALETTE[0]}, "hovertemplate": "%{y}: %{x:.1%}",
        "text": [f"{shares[key]:.0%}" for key in keys], "textposition": "auto",
    }  # fmt: skip
    return figure([bars], axis("importance", tickformat=".0%", rangemode="tozero"), axis("", type="category"))


def _domain(key: str, points: list[Point]) -> Any:
    """What a key was drawn from, as far as the runs tell."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    values = [values[key] for _, values, _ in points if key in values]
    if values and is_numeric(key, points):
        return FloatDistribution(float(min(values)), float(max(values)), log=is_wide(values))
    return CategoricalDistribution(sorted({text(value) for value in values}))


def _param(domain: Any, value: Any) -> Any:
    return text(value) if hasattr(domain, "choices") else float(value)
