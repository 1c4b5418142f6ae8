"""Loss by step, on text trained on and on held-out text, beside the baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import plotly.graph_objects as go

from ...runs import Metrics
from ..run import RunContents, real
from ..section import Figure, Section, Table
from ..style import BLUE, GREY, ORANGE, plot
from ..words import count, duration, number

__all__ = ["section"]

_OF_TEXT = (
    "The loss is how surprised the network is, on average, by the token that really comes next; lower is better. The "
    "blue line is measured on text it never trained on. Below the bigram line it has learned more than which token "
    "tends to follow which."
)
_OF_DATA = "The loss is what training makes small. The blue line is measured on data it never trained on."
_DASHES = ("dash", "dot", "dashdot", "longdash")
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
    mode = "lines+markers" if len(steps) <= 60 else "lines"
    text = run.is_language
    data = "text" if text else "data"
    details = ["".join(f"<br>{detail}" for detail in _details(row)) for row in run.metrics]
    traces = [
        go.Scatter(
            x=steps,
            y=train,
            name=f"training {data}",
            mode=mode,
            line={"color": ORANGE, "width": 1.5},
            marker={"size": 5, "symbol": "square"},
            hovertemplate="step %{x:,}<br>training loss %{y:.4f}<extra></extra>",
        ),
        go.Scatter(
            x=steps,
            y=validation,
            name=f"held-out {data}",
            mode=mode,
            line={"color": BLUE, "width": 2.5},
            marker={"size": 6},
            customdata=details,
            hovertemplate="step %{x:,}<br>validation loss %{y:.4f}%{customdata}<extra></extra>",
        ),
    ]
    span = [0, max(steps)]
    known = {"unigram": "unigram baseline", "bigram": "bigram baseline"}
    for dash, name in zip(_DASHES, [name for name in known if name in run.baselines], strict=False):
        loss = real(run.baselines[name].get("loss"))
        traces.append(
            go.Scatter(
                x=span,
                y=[loss, loss],
                name=known[name],
                mode="lines",
                line={"color": GREY, "width": 2, "dash": dash},
                hovertemplate=f"{known[name]} %{{y:.4f}}<extra></extra>",
            )
        )
    finite = [loss for loss in (*train, *validation) if math.isfinite(loss) and loss > 0]
    steep = bool(finite) and max(finite) > 30 * min(finite)  # a run that blew up: the rest must stay legible
    figure = plot(
        *traces,
        xaxis={"title": {"text": "training step"}, "tickformat": ",", "rangemode": "tozero"},
        yaxis={"title": {"text": "loss (nats per token)" if text else "loss"}, "type": "log" if steep else "linear"},
    )
    return Figure(
        figure,
        "Loss while training",
        (_OF_TEXT if text else _OF_DATA)
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


def _table(run: RunContents) -> Table:
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
        "tokens per second": (lambda line: line.tokens_per_second, number),
    }
    columns = {name: column for name, column in columns.items() if any(column[0](row) is not None for row in rows)}
    return Table(
        "Every evaluation" if stride == 1 else f"One evaluation in {stride} (all are in metrics.jsonl)",
        [[form(real(value(row))) for value, form in columns.values()] for row in rows],
        tuple(columns),
    )
