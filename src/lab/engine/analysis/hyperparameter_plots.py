"""Draws what was varied, and at what cost: Optuna's own figures, over studies made of recorded runs."""

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
from lab.engine.analysis.plots import GREY, PALETTE, Figure, plain
from lab.engine.runs.run import FINISHED

# Viridis from worst to best, without its ends, which are lost on a dark and on a white page
SCALE = ["#5b3a8e", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39"]
UNITS = {"cost/seconds": "training time in s", "cost/epochs": "epochs", "cost/steps": "optimizer steps"}
MOST_LINES = 300  # of more runs the best
LEAST = 10  # runs for importances
TOP = 5  # runs that the best share must have for a density, as Optuna advises


def make_study(comparison: Comparison) -> optuna.Study:
    """Makes a study of every run that has ended with a finite figure, the best last, with the keys that were varied."""
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
    """Returns the keys that have several values."""
    return sorted({key for trial in study.get_trials(deepcopy=False) for key in trial.params})


def parallel(study: optuna.Study, metric: str) -> Figure:
    """Draws a line a run, across the objective, which colours it, and each key on its own scale."""
    figure = visualization.plot_parallel_coordinate(study, target_name=plain(metric))
    trials = study.get_trials(deepcopy=False)
    bar = figure.data[-1].marker
    spread = bar.cmax - bar.cmin
    shares = [(trial.value - bar.cmin) / spread for trial in trials if trial.value is not None]
    colours = sample_colorscale(SCALE, [1 - share if bar.reversescale else share for share in shares])
    for trace, trial, colour in zip(figure.data, trials, colours, strict=False):
        look = {"line": {"color": colour, "width": 1.6}, "marker": {"size": 5}, "mode": "lines+markers"}
        trace.update(
            name=trial.user_attrs["run"], opacity=0.75, hovertemplate="%{customdata[0]}: %{customdata[1]}", **look
        )
    bar.update(colorscale=SCALE, colorbar={"thickness": 12, "outlinewidth": 0, "title": ""})
    figure.data = figure.data[-MOST_LINES - 1 :]
    figure.update_annotations(bgcolor="white", font={"color": None, "size": 11})
    return figure.update_xaxes(ticktext=[plain(metric), *varied(study)])


def slices(study: optuna.Study, metric: str) -> dict[str, Figure]:
    """Draws each key against the objective, a point a run; what was pruned is a cross."""
    trials, figures = study.get_trials(deepcopy=False), {}
    for key in varied(study):
        figure = figures[key] = visualization.plot_slice(study, params=[key], target_name=plain(metric))
        [points] = figure.data
        shown = [trials[number] for number in points.marker.color]
        pruned = [trial.user_attrs["pruned"] for trial in shown]
        look = {
            "symbol": ["x" if one else "circle" for one in pruned],
            "color": [GREY if one else PALETTE[0] for one in pruned],
        }
        points.update(
            x=[trial.params[key] for trial in shown],
            text=[trial.user_attrs["run"] for trial in shown],
            hovertemplate="%{x}: %{y:.4g}<br>%{text}<extra></extra>",
            marker=look | {"size": 8, "opacity": 0.75, "showscale": False, "line": {"width": 0}},
        )
        domain = shown[0].distributions[key]
        if isinstance(domain, CategoricalDistribution):
            figure.update_xaxes(categoryarray=domain.choices)
        elif len(set(points.x)) <= 8:
            figure.update_xaxes(tickvals=sorted(set(points.x)))
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
        figure = visualization.plot_param_importances(study, evaluator=evaluator)
    if not sum(figure.data[0].x):
        return "the best runs are spread like all the others"
    look = {"marker_color": PALETTE[0], "texttemplate": "%{x:.0%}", "hovertemplate": "%{y}: %{x:.1%}<extra></extra>"}
    return figure.update_traces(**look).update_xaxes(title="importance", tickformat=".0%").update_yaxes(title="")


def pareto_fronts(comparison: Comparison) -> dict[str, Figure]:
    """Draws a figure for each cost, and for each further objective, that differs between groups."""
    others = dict.fromkeys(comparison.costs, "min")
    others |= {metric: mode for metric, mode in comparison.objectives if metric != comparison.metric}
    figures = {}
    for name, mode in others.items():
        found = []  # of each group that has both figures
        for row in comparison.rows:
            y = row.summaries[comparison.metric]
            x = row.summaries[name].mean if name in row.summaries else row.costs.get(name)
            if x is not None and y.mean is not None and math.isfinite(x) and math.isfinite(y.mean):
                found.append((x, y.mean, y.high and y.high - y.mean, plain(row.group.name)))
        if len({x for x, *_ in found}) > 1:
            figures[name] = _pareto_front(found, [mode, comparison.mode], [UNITS.get(name, name), comparison.metric])
    return figures


def _pareto_front(found: list[tuple[float, float, float | None, str]], modes: list[str], names: list[str]) -> Figure:
    """Draws groups: two figures, half of the interval of the second, and the name of each."""
    study = _study(modes, [optuna.create_trial(values=[x, y]) for x, y, *_ in found])
    figure = visualization.plot_pareto_front(study, target_names=[plain(name.removeprefix(COST)) for name in names])
    for trace, colour in zip(figure.data, PALETTE, strict=False):  # the others, and those that no other beats
        shown = [found[number] for number in trace.marker.color]
        halves = {"array": [half for *_, half, _ in shown], "thickness": 1, "width": 3, "color": "#888"}
        trace.update(
            text=[name for *_, name in shown],
            hovertemplate="%{text}<br>%{x:.4g}: %{y:.4g}<extra></extra>",
            error_y=halves,
            marker={"size": 9, "color": colour, "showscale": False, "line": {"width": 0}},
        )
    best = sorted((x, y) for x, y in zip(figure.data[1].x, figure.data[1].y, strict=True))
    line = {"color": PALETTE[1], "width": 1.5, "dash": "dot"}
    xs, ys = zip(*best, strict=True)
    figure.add_scatter(x=xs, y=ys, mode="lines", name="Pareto front", hoverinfo="skip", showlegend=False, line=line)
    return figure.update_xaxes(type="log" if _is_wide([x for x, *_ in found]) else "linear")


def _study(modes: Sequence[str], trials: Sequence[optuna.trial.FrozenTrial]) -> optuna.Study:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a new study tells of itself
    study = optuna.create_study(directions=["maximize" if mode == "max" else "minimize" for mode in modes])
    optuna.logging.set_verbosity(before)
    study.add_trials(trials)
    return study


def _domain(values: Sequence[Any]) -> BaseDistribution:
    """Returns what a key was drawn from, as far as the runs tell; choices in the order of their best run."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values):
        return FloatDistribution(float(min(values)), float(max(values)), log=_is_wide(values))
    return CategoricalDistribution(list(dict.fromkeys(plain(text(value)) for value in values)))


def _param(domain: BaseDistribution, value: Any) -> Any:
    return plain(text(value)) if isinstance(domain, CategoricalDistribution) else float(value)


def _is_wide(values: Sequence[float]) -> bool:
    """Whether numbers are better seen on a logarithmic axis."""
    return min(values) > 0 and max(values) >= 10 * min(values)
