"""How well a network that is not a language model does on held-out data, compared with its baselines.

Tests: `tests/report/test_results.py`.
"""

from __future__ import annotations

import math

from ...runs import Part, Scores, interval
from ...runs.scores import BASELINES, DRAWN, METRICS, Metric
from ..run import RunContents, real
from ..section import Fact, Figure, Section, TextTable
from ..style import BLUE, curve, level, plot
from ..words import count, number, share

_MEANING = {
    "accuracy": "Accuracy is the share of labels that are right; macro F1 is the mean over the labels of how well each "
    "is found, so that rare ones count as much as frequent ones.",
    "mase": "MAE and RMSE are in the units of the data. MASE is the error in units of what one step of the seasonal "
    "naive forecast misses by in training: below 1 is better than that.",
    "r2": "R² is the share of the variance that is predicted: 1 is perfect, 0 no better than always saying the mean. "
    "MSE and MAE are the mean squared and the mean absolute error, in the units of the data.",
    "correct": "A sequence counts as solved by the measure of the paper that set the task.",
}
_OF_QUANTILES = (
    "The loss is twice the pinball loss, the mean over the quantiles. An interval is well calibrated where the share "
    "of what came that lies in it is the one in its name. The quantiles of the simple rules are those that their own "
    "errors had in the training part."
)
_CLASSES = 30  # rows of the tables by label


def section(run: RunContents) -> Section | None:
    """The metrics of every part, the baselines, and for labels each label and what it is taken for."""
    if run.task.writes_text:
        return None
    tested = (run.outcome.results or {}).get("test")
    simple = {name: values for name, values in (run.outcome.test_baselines or {}).items() if tested is not None}
    parts: dict[str, Scores] = {"validation": run.outcome.scores, **(run.baselines if simple else {})}
    parts |= {} if tested is None else {"test": tested}
    parts |= {f"test: {name}": values for name, values in simple.items()} or run.baselines
    metrics = {key: metric for key, metric in METRICS.items() if metric.on_page} | {
        key: Metric(name, share=True) for scores in parts.values() for key in scores if (name := interval(key))
    }
    shown = [key for key in metrics if any(math.isfinite(real(scores.get(key))) for scores in parts.values())]
    rows = [[name, *(_form(key, real(scores.get(key))) for key in shown)] for name, scores in parts.items()]
    words = [meaning for key, meaning in _MEANING.items() if key in shown]
    if metrics.keys() - METRICS.keys():
        words.append(_OF_QUANTILES)
    if run.results is not None and (goal := run.results.goal) is not None:
        solved = "The published goal is met" if goal.solved else "The published goal is not met"
        mean = "" if goal.mean_error is None else f", the mean error was {goal.mean_error:.4f}"
        words.append(f"{solved}: {goal.criterion}. {goal.wrong:,} of {goal.sequences:,} were wrong{mean}.")
    tables = [
        TextTable("On held-out data, and what simple rules reach", rows, ("", *(metrics[key].name for key in shown)))
    ]
    for name in ("test", "validation"):
        if run.results is not None and (found := run.results.parts.get(name)) is not None:
            tables += _by_label(name, found, run.results.labels)
            if found.confusion_matrix:
                break
    return Section("results", "How well it does", words, figures=_figures(run), tables=tables)


def facts(run: RunContents) -> list[Fact]:
    """The one number worth a large type."""
    best = run.outcome.scores
    for key in DRAWN:
        if math.isfinite(value := real(best.get(key))):
            others = {name: real(values.get(key)) for name, values in run.baselines.items()}
            note = ", ".join(f"{name} {_form(key, other)}" for name, other in others.items() if math.isfinite(other))
            return [Fact(METRICS[key].name, _form(key, value), note)]
    return []


def _form(key: str, value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return share(value) if key not in METRICS or METRICS[key].share else number(value)


def _figures(run: RunContents) -> list[Figure]:
    for key in DRAWN:
        values = [real(line.validation.get(key)) for line in run.metrics]
        if not any(map(math.isfinite, values)):
            continue
        name = METRICS[key].name
        traces = [curve(run.steps, values, name, BLUE, mode="lines+markers", hoverinfo=None)]
        for dash, (which, scores) in zip(("dash", "dot", "dashdot"), run.baselines.items(), strict=False):
            if math.isfinite(value := real(scores.get(key))) and which in BASELINES:
                traces.append(level(max(run.steps), value, which, dash=dash, hoverinfo=None))
        axis = {"title": {"text": name}} | ({"range": [_chance(run, key, values), 1.02]} if METRICS[key].share else {})
        figure = plot(*traces, xaxis={"title": {"text": "training step"}}, yaxis=axis)
        better = "lower is better" if key == "mase" else "higher is better"
        last = next(value for value in reversed(values) if math.isfinite(value))
        alt = f"Line chart of validation {name} by training step; it ends at {_form(key, last)}."
        return [Figure(figure, f"Validation {name} while training", f"On data it never trained on; {better}.", alt)]
    return []


def _chance(run: RunContents, key: str, values: list[float]) -> float:
    """Where the axis of a share begins: at the best of the simple methods, or below it where a run is worse."""
    levels = [real(scores.get(key)) for name, scores in run.baselines.items() if name != "optimum"]
    known = [level for level in levels if math.isfinite(level)]
    return max(0.0, min([max(known, default=0.0), *filter(math.isfinite, values)]) - 0.02)


def _by_label(name: str, found: Part, labels: list[str]) -> list[TextTable]:
    tables = []
    if found.classes:
        shown = ("precision", "recall", "f1")
        rows = [
            [label, *(number(real(scores.get(key))) for key in shown), count(real(scores.get("support")))]
            for label, scores in list(found.classes.items())[:_CLASSES]
        ]
        tables.append(TextTable(f"Each label ({name} part)", rows, ("label", "precision", "recall", "F1", "sequences")))
    if found.entities:
        rows = [[kind, number(real(scores.get("f1")))] for kind, scores in list(found.entities.items())[:_CLASSES]]
        tables.append(TextTable(f"Each kind of entity ({name} part)", rows, ("kind", "F1")))
    if found.confusion_matrix and len(labels) <= _CLASSES:
        rows = [[label, *map(str, row)] for label, row in zip(labels, found.confusion_matrix, strict=False)]
        columns = ("truth ↓, named →", *labels)
        tables.append(TextTable(f"Confusion: how often each label was named ({name} part)", rows, columns))
    return tables
