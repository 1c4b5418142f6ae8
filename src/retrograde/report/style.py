"""How every figure looks: one palette, one layout.

The three colours keep a contrast of at least 3:1 on white and on near-black and stay apart for colour-blind
readers; dashes and markers say the same once more. Text and grid take their colours from the page (page.css),
so one figure serves light, dark and paper.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

__all__ = ["BLUE", "GREY", "ORANGE", "plot"]

BLUE, ORANGE, GREY = "#3d82c4", "#d9711f", "#7d8590"


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
