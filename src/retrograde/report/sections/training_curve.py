"""Loss by step, on text trained on and on held-out text, compared with the baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...runs import Metrics
from ..run import RunContents, real
from ..section import Figure, Section, TextTable
from ..style import BLUE, ORANGE, curve, level, mode_of, plot
from ..words import count, duration, number

_OF_TEXT = (
    "The loss is how surprised the network is, on average, by the token that really comes next; lower is better. The "
    "blue line is measured on text it never trained on. Below the bigram line it has learned more than which token "
    "tends to follow which."
)
_OF_DATA = "The loss is what training makes small. The blue line is measured on data it never trained on."
_ROWS = 200  # evaluations in the folded table; the rest is thinned and said


def section(run: RunContents) -> Section:
    """The training curve."""
    if not run.metrics:
        why = run.missing.get("metrics.jsonl", "the file is empty")
        return Section("training", "Training curve", [f"There is no evaluation to draw (metrics.jsonl: {why})."])
    words = []
    if "metrics.jsonl" in run.missing:
        words.append(f"metrics.jsonl: {run.missing['metrics.jsonl']}.")
    if len(run.metrics) == 1:
        words.append("The run was evaluated only once, so there are points instead of curves.")
    if not run.baselines:
        words.append("No baselines were recorded for this run.")
    return Section("training", "Training curve", words, figures=[_figure(run)])


def _figure(run: RunContents) -> Figure:
    steps = run.steps
    train, validation = run.series(lambda line: line.train_loss), run.series(lambda line: line.loss)
    tokens, data, mode = run.task.predicts_tokens, run.task.data, mode_of(steps)
    details = ["".join(f"<br>{detail}" for detail in _details(row)) for row in run.metrics]
    orange: dict[str, Any] = {"marker": {"size": 5, "symbol": "square"}, "mode": mode, "width": 1.5}
    blue: dict[str, Any] = {"marker": {"size": 6}, "mode": mode, "customdata": details}
    hovers = "step %{x:,}<br>training loss %{y:.4f}", "step %{x:,}<br>validation loss %{y:.4f}%{customdata}"
    traces = [
        curve(steps, train, f"training {data}", ORANGE, hover=hovers[0], **orange),
        curve(steps, validation, f"held-out {data}", BLUE, hover=hovers[1], **blue),
    ]
    for dash, which in (("dash", "unigram"), ("dot", "bigram")):
        if which in run.baselines:
            name = f"{which} baseline"
            traces.append(level(max(steps), run.baseline(which), name, hover=f"{name} %{{y:.4f}}", dash=dash))
    finite = [loss for loss in (*train, *validation) if math.isfinite(loss) and loss > 0]
    steep = bool(finite) and max(finite) > 30 * min(finite)  # a run that blew up: the rest must stay legible
    figure = plot(
        *traces,
        xaxis={"title": {"text": "training step"}, "tickformat": ",", "rangemode": "tozero"},
        yaxis={"title": {"text": "loss (nats per token)" if tokens else "loss"}, "type": "log" if steep else "linear"},
    )
    return Figure(
        figure,
        "Loss while training",
        (_OF_TEXT if tokens else _OF_DATA)
        + " A blue line that turns upwards while the orange one falls means overfitting."
        + (" The axis is logarithmic because the loss blew up." if steep else ""),
        _alt(steps, validation),
        _table(run),
    )


def _details(line: Metrics) -> list[str]:
    """What a pointer on an evaluation shows besides the loss: whatever was measured."""
    details = {
        f"epoch {number(real(line.epoch))}": line.epoch,
        duration(real(line.seconds)): line.seconds,
        f"perplexity {number(real(line.validation.get('perplexity')))}": line.validation.get("perplexity"),
        f"{number(real(line.validation.get('bits_per_character')))} bits per character": line.validation.get(
            "bits_per_character"
        ),
    }
    return [text for text, value in details.items() if math.isfinite(real(value))]


def _alt(steps: Sequence[float], validation: Sequence[float]) -> str:
    shown = [(step, loss) for step, loss in zip(steps, validation, strict=True) if math.isfinite(loss)]
    if not shown:
        return "Line chart of training loss by step; no finite validation loss was recorded."
    (first, start), (last, end) = shown[0], shown[-1]
    return (
        f"Line chart of loss by training step. Validation loss goes from {number(start)} at step {count(first)} "
        f"to {number(end)} at step {count(last)}."
    )


def _table(run: RunContents) -> TextTable:
    stride = math.ceil(len(run.metrics) / _ROWS)
    rows = [*run.metrics[::stride], *([run.metrics[-1]] if (len(run.metrics) - 1) % stride else [])]
    columns: dict[str, tuple[Callable[[Metrics], float | None], Callable[[float], str]]] = {
        "step": (lambda line: line.step, count),
        "epoch": (lambda line: line.epoch, number),
        "time": (lambda line: line.seconds, duration),
        "training loss": (lambda line: line.train_loss, lambda value: number(value, 4)),
        "validation loss": (lambda line: line.loss, lambda value: number(value, 4)),
        "perplexity": (lambda line: line.validation.get("perplexity"), number),
        "bits per character": (lambda line: line.validation.get("bits_per_character"), number),
        "learning rate": (lambda line: line.learning_rate, number),
        f"{run.task.scored} per second": (lambda line: line.tokens_per_second, number),
    }
    columns = {name: column for name, column in columns.items() if any(column[0](row) is not None for row in rows)}
    return TextTable(
        "Every evaluation" if stride == 1 else f"One evaluation in {stride} (all are in metrics.jsonl)",
        [["–" if value(row) is None else form(real(value(row))) for value, form in columns.values()] for row in rows],
        tuple(columns),
    )
