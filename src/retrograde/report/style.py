"""How every figure looks: one palette, one layout.

The three colours keep a contrast of at least 3:1 on white and on near-black and stay apart for colour-blind
readers; dashes and markers say the same once more. Text and grid take their colours from the page (page.css),
so one figure serves light, dark and paper.
"""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from .words import number

__all__ = ["BLUE", "GREY", "ORANGE", "plot", "share_left_axis"]

BLUE, ORANGE, GREY = "#3d82c4", "#d9711f", "#7d8590"
_LOWEST = -6  # the power of ten where an axis of shares ends at first; the curves themselves go on


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
