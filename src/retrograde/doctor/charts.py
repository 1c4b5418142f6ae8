"""A finding's chart on matplotlib axes.

Tests: `tests/report/test_doctor_section.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..flow.plots import COLORS, axes_or_new, finish
from .findings import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def drawn(chart: Chart, ax: Axes | None = None) -> Axes:
    """Draw a chart on the axes given, or on new ones."""
    ax = axes_or_new(ax)
    for i, curve in enumerate(chart.curves):
        values = [math.nan if y is None else y for y in curve.y]
        style = "." if len(values) == 1 else "-"
        ax.plot(curve.x, values, style, color=COLORS[i % len(COLORS)], label=curve.label)
    for i, (name, x) in enumerate(chart.marks.items(), len(chart.curves)):
        ax.axvline(x, color=COLORS[i % len(COLORS)], linestyle="--", label=f"{name} {x:g}")
    if chart.log:
        ax.set_yscale("log")
    ax.set_xlabel(chart.x_label)
    ax.set_ylabel(chart.y_label)
    if len(chart.curves) + len(chart.marks) > 1:
        ax.legend()
    return finish(ax, chart.title)
