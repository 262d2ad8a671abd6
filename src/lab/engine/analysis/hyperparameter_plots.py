"""Plots metrics against hyperparameters and costs: Optuna's own figures, over studies made of recorded runs."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna import visualization
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from plotly.colors import sample_colorscale  # type: ignore[import-untyped]

from lab.engine.analysis.columns import text
from lab.engine.analysis.comparison import COST, Comparison
from lab.engine.analysis.plots import GREY, PALETTE, Figure, axis, figure, plain
from lab.engine.runs.run import FINISHED

# Viridis from worst to best, without its ends, which are lost on a dark and on a white page
SCALE = ["#5b3a8e", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39"]
UNITS = {"cost/seconds": "training time in s", "cost/epochs": "epochs", "cost/steps": "optimizer steps"}
MOST_LINES = 300  # of more runs only the best are drawn
LEAST = 10  # runs for importances
TOP = 5  # runs that the best share must have for a density, as Optuna advises


def make_study(comparison: Comparison) -> optuna.Study:
    """Makes a study of every run that ended with a finite metric, the best last, with the keys that were varied."""
    found = [
        (run, group.keys, run.metrics[comparison.metric])
        for group in comparison.groups
        for run in group.runs
        if run.status in FINISHED and math.isfinite(run.metrics.get(comparison.metric, math.nan))
    ]
    found.sort(key=lambda one: -comparison.sign * one[2])
    every = {key: [keys[key] for _, keys, _ in reversed(found) if key in keys] for key in comparison.keys}
    domains = {key: _domain(values) for key, values in every.items() if len(set(map(text, values))) > 1}
    trials = []
    for run, keys, value in found:
        here = [key for key in domains if key in keys]
        trials.append(
            optuna.create_trial(
                params={plain(key): _param(domains[key], keys[key]) for key in here},
                distributions={plain(key): domains[key] for key in here},
                value=value,
                user_attrs={"run": plain(run.name), "pruned": run.status == "pruned"},
            )
        )
    return _study([comparison.mode], trials)


def varied(study: optuna.Study) -> list[str]:
    """Returns the hyperparameters of a study, sorted by name."""
    return sorted({key for trial in study.get_trials(deepcopy=False) for key in trial.params})


def parallel(study: optuna.Study, metric: str) -> Figure:
    """Draws parallel coordinates: a line for each run, coloured by the objective, across an axis for each key."""
    drawn = visualization.plot_parallel_coordinate(study, target_name=plain(metric)).to_dict()
    trials = study.get_trials(deepcopy=False)
    *lines, bar = drawn["data"]
    marker = bar["marker"] | {"colorscale": SCALE, "colorbar": {"thickness": 12, "outlinewidth": 0}}
    low, high = marker["cmin"], marker["cmax"]
    shares = [(trial.value - low) / (high - low) for trial in trials if trial.value is not None]
    colours = sample_colorscale(SCALE, [1 - share if marker["reversescale"] else share for share in shares])
    for trace, trial, colour in zip(lines, trials, colours, strict=True):
        trace |= {"name": trial.user_attrs["run"], "mode": "lines+markers", "opacity": 0.75, "marker": {"size": 5}}
        trace |= {"line": {"color": colour, "width": 1.6}, "hovertemplate": "%{customdata[0]}: %{customdata[1]}"}
    for label in drawn["layout"]["annotations"]:
        label |= {"bgcolor": "white", "font": {"size": 11}}
    drawn["layout"]["xaxis"]["ticktext"] = [plain(metric), *varied(study)]  # Optuna's are cut
    return drawn | {"data": [*lines[-MOST_LINES:], bar | {"marker": marker}]}


def slices(study: optuna.Study, metric: str) -> dict[str, Figure]:
    """Draws the objective against each key, a point for each run; pruned runs are crosses."""
    figures = {}
    for key in varied(study):
        shown = [trial for trial in study.get_trials(deepcopy=False) if key in trial.params]
        pruned = [trial.user_attrs["pruned"] for trial in shown]
        domain = shown[0].distributions[key]
        x: dict[str, Any] = {"title": {"text": key}, "type": "log" if getattr(domain, "log", False) else "linear"}
        if isinstance(domain, CategoricalDistribution):
            x |= {"type": "category", "categoryarray": domain.choices}
        points = {
            "x": [trial.params[key] for trial in shown], "y": [trial.value for trial in shown], "mode": "markers",
            "text": [trial.user_attrs["run"] for trial in shown],
            "hovertemplate": "%{x}: %{y:.4g}<br>%{text}<extra></extra>",
            "marker": {
                "symbol": ["x" if one else "circle" for one in pruned], "size": 8, "opacity": 0.75,
                "color": [GREY if one else PALETTE[0] for one in pruned],
            },
        }  # fmt: skip
        figures[key] = figure([points], x, axis(metric))
    return figures


def importances(study: optuna.Study, metric: str) -> Figure | str:
    """Draws how much each key matters for the best runs, by PED-ANOVA (Watanabe et al. 2023).

    Returns:
        The figure, or the reason why there is none.
    """
    trials = study.get_trials(deepcopy=False)
    if not varied(study):
        return "nothing was varied"
    if len(trials) < LEAST:
        return f"it takes {LEAST} runs that have ended with a figure, and there are {len(trials)}"
    if len({trial.value for trial in trials}) < 2:
        return f"{metric} is the same in every run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that few runs have
        evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, TOP / len(trials)))
        drawn = visualization.plot_param_importances(study, evaluator=evaluator)
    if not sum(drawn.data[0].x):
        return "the best runs are spread like all the others"
    look = {"marker_color": PALETTE[0], "texttemplate": "%{x:.0%}", "hovertemplate": "%{y}: %{x:.1%}<extra></extra>"}
    return (
        drawn.update_traces(**look).update_xaxes(title="importance", tickformat=".0%").update_yaxes(title="").to_dict()
    )


def pareto_fronts(comparison: Comparison) -> dict[str, Figure]:
    """Draws a figure for each cost, and for each further objective, that differs between groups."""
    others = dict.fromkeys(comparison.costs, "min")
    others |= {metric: mode for metric, mode in comparison.objectives if metric != comparison.metric}
    figures = {}
    for name, mode in others.items():
        found = []  # of each group that has both metrics, with half of the interval
        for row in comparison.rows:
            x = row.values.get(name, row.values.get(f"{name} mean"))
            y, high = (row.values[f"{comparison.metric} {what}"] for what in ("mean", "high"))
            if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
                found.append((x, y, None if high is None else high - y, plain(row.group.name)))
        if len({x for x, *_ in found}) > 1:
            figures[name] = _pareto_front(found, [mode, comparison.mode], [UNITS.get(name, name), comparison.metric])
    return figures


def _pareto_front(found: Sequence[tuple[Any, ...]], modes: Sequence[str], names: Sequence[str]) -> Figure:
    study = _study(modes, [optuna.create_trial(values=[x, y]) for x, y, *_ in found])
    best = [trial.number for trial in study.best_trials]
    xs, ys, halves, groups = zip(*found, strict=True)
    points = {
        "x": xs, "y": ys, "text": groups, "hovertemplate": "%{text}<br>%{x:.4g}: %{y:.4g}<extra></extra>",
        "mode": "markers", "marker": {"size": 9, "color": [PALETTE[1 if i in best else 0] for i in range(len(found))]},
        "error_y": {"array": halves, "thickness": 1, "width": 3, "color": "#888"}, "showlegend": False,
    }  # fmt: skip
    front_xs, front_ys = zip(*sorted(found[i][:2] for i in best), strict=True)
    line = {"x": front_xs, "y": front_ys, "mode": "lines", "hoverinfo": "skip", "showlegend": False}
    line |= {"line": {"color": PALETTE[1], "width": 1.5, "dash": "dot"}}
    x, y = (axis(name.removeprefix(COST)) for name in names)
    return figure([line, points], x | {"type": "log" if _is_wide(xs) else "linear"}, y)


def _study(modes: Sequence[str], trials: Sequence[optuna.trial.FrozenTrial]) -> optuna.Study:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna logs that it creates a study
    study = optuna.create_study(directions=["maximize" if mode == "max" else "minimize" for mode in modes])
    optuna.logging.set_verbosity(before)
    study.add_trials(trials)
    return study


def _domain(values: Sequence[Any]) -> BaseDistribution:
    """Infers the distribution of a key from its values in the runs; choices in the order of their best run."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values):
        return FloatDistribution(float(min(values)), float(max(values)), log=_is_wide(values))
    return CategoricalDistribution(list(dict.fromkeys(plain(text(value)) for value in values)))


def _param(domain: BaseDistribution, value: Any) -> Any:
    return plain(text(value)) if isinstance(domain, CategoricalDistribution) else float(value)


def _is_wide(values: Sequence[float]) -> bool:
    """Tells whether numbers span a factor of ten, and so are better seen on a logarithmic axis."""
    return min(values) > 0 and max(values) >= 10 * min(values)
