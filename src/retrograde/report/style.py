"""How every figure looks: one palette, one layout.

The three colors keep a contrast of at least 3:1 on white and on near-black and stay apart for color-blind
readers; dashes and markers say the same once more. Text and grid take their colors from the page (page.css),
so one figure serves light, dark and paper.

Tests: `tests/report/test_write.py`.
"""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from .words import number

BLUE, ORANGE, GREY = "#3d82c4", "#d9711f", "#7d8590"
_LOWEST = -6  # power of ten at which an axis of shares ends at first; the curves go on below it


def curve(
    x: Any, y: Any, name: str, color: str, *, hover: str = "", width: float = 2.5, dash: str | None = None, **more: Any
) -> go.Scatter:
    """A line; with ``hover``, the text that a pointer shows."""
    shown = {"hovertemplate": f"{hover}<extra></extra>"} if hover else {"hoverinfo": "skip"}
    line = {"color": color, "width": width, "dash": dash}
    return go.Scatter(x=x, y=y, name=name, **({"mode": "lines", "line": line} | shown | more))


def level(
    last: float, value: float, name: str, color: str = GREY, width: float = 2, dash: str | None = "dash", **more: Any
) -> go.Scatter:
    """A horizontal line from 0 to `last`."""
    return curve([0, last], [value, value], name, color, width=width, dash=dash, **more)


def mode_of(x: Any, few: int = 60) -> str:
    """Lines, with a marker at each point where there are only a few."""
    return "lines+markers" if len(x) <= few else "lines"


def plot(*traces: Any, height: int = 380, **layout: Any) -> go.Figure:
    """A figure of `traces` in the page's style."""
    figure = go.Figure(
        data=list(traces),
        layout={
            "template": "none",
            "height": height,
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "margin": {"l": 66, "r": 16, "t": 36, "b": 52},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hoverlabel": {"font": {"family": "system-ui, sans-serif"}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": BLUE},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        },
    )
    axis: dict[str, Any] = {"zeroline": False, "showline": False, "ticks": "", "automargin": True}
    axis |= {"title": {"standoff": 12, "font": {"size": 13}}}
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    figure.update_layout(layout)
    return figure


def share_left_axis(lowest: float, highest: float) -> tuple[dict[str, Any], str]:
    """A y axis for shares of the gradient left, from `lowest` to `highest`, and what a caption must say of it."""
    deep, last = max(-308, math.floor(math.log10(lowest))), min(308, math.ceil(math.log10(highest)))
    first = min(max(_LOWEST, deep), -3)  # 1 % never lies on the edge
    # Every power of ten in the part first shown; below it, where only a zoom leads, about ten more.
    ticks = [*range(last, first - 1, -max(1, (last - first) // 8))]
    ticks += range(first - 1, deep - 1, -max(1, (first - deep) // 10))
    axis = {
        "title": {"text": "share of the gradient left"},
        "type": "log",
        "tickvals": [10.0**tick for tick in ticks],
        "ticktext": [_per_cent(tick) for tick in ticks],
        "range": [first, math.log10(highest) + 0.3],
    }
    cut = f" The axis starts at {_per_cent(_LOWEST)}; the curves go on below it (double-click to see all)."
    return axis, cut if lowest < 10.0**_LOWEST else ""


def _per_cent(power: int) -> str:
    """10**power in per cent, plainly where that is readable: ``1 %``, ``0.001 %``, ``10⁻⁹ %``."""
    value = 10.0 ** (power + 2)
    return f"{value:.{max(0, -power - 2)}f} %" if -6 <= power < 4 else f"{number(value)} %"
