"""A chart of the doctor as a figure of the page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .section import Figure, TextTable
from .style import BLUE, GREY, ORANGE, curve, mode_of, plot
from .words import number

if TYPE_CHECKING:
    from ..doctor.findings import Chart

_COLORS, _DASHES = (BLUE, ORANGE, GREY), (None, "dash", "dot")
_MARKUP = str.maketrans({"<": "‹", ">": "›", "&": "+"})  # plotly reads these in a text as markup


def figure_of(chart: Chart, title: str, words: str) -> Figure:
    """The figure of a chart, and some of its points as a table; the words are for those who do not see it."""
    traces: list[Any] = []
    for i, one in enumerate(chart.curves):
        y = [None if value is None or (chart.log and value <= 0) else value for value in one.y]
        color, dash = _COLORS[i % len(_COLORS)], _DASHES[i // len(_COLORS) % len(_DASHES)]
        hover = f"{_plain(chart.x_label)} %{{x}}<br>%{{y:.3~g}}"
        traces.append(curve(one.x, y, _plain(one.label), color, hover=hover, dash=dash, mode=mode_of(one.x)))
    figure = plot(
        *traces,
        xaxis={"title": {"text": _plain(chart.x_label)}},
        yaxis={
            "title": {"text": _plain(chart.y_label)},
            "type": "log" if chart.log else "linear",
            "exponentformat": "power",
        },
        showlegend=len(chart.curves) > 1,
    )
    marks = {name: at for name, at in chart.marks.items() if math.isfinite(at)}
    for i, (name, at) in enumerate(marks.items()):
        line = {"color": ORANGE, "width": 1.5, "dash": "dash"}
        figure.add_shape(type="line", x0=at, x1=at, y0=0, y1=1, yref="paper", line=line)
        label = {"text": _plain(name), "x": at, "y": 1 - 0.08 * i, "yref": "paper", "xanchor": "left", "xshift": 4}
        figure.add_annotation(label | {"showarrow": False})
    lines = "; ".join(f"{name}: {number(at)}" for name, at in marks.items())
    caption = f"{chart.y_label} by {chart.x_label}." + (f" Vertical lines: {lines}." if lines else "")
    return Figure(figure, title, caption, f"Line chart: {title}. {caption} {words}", _numbers(chart))


def _numbers(chart: Chart) -> TextTable:
    """Some points of the curves."""
    longest = max((one.x for one in chart.curves), key=len, default=[])
    shown = sorted({round(i * (len(longest) - 1) / 15) for i in range(16)}) if longest else []
    rows = [[number(longest[i]), *(_value(one.y, i) for one in chart.curves)] for i in shown]
    return TextTable(chart.title, rows, (chart.x_label, *(one.label for one in chart.curves)))


def _value(values: list[float | None], i: int) -> str:
    value = values[i] if i < len(values) else None
    return "—" if value is None else number(value)


def _plain(text: str) -> str:
    return text.translate(_MARKUP)
