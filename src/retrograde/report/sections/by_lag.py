"""How much of the gradient is left after so many steps back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ..run import FRACTION, RunContents
from ..section import SHOWN_LAGS, Figure, Section, TextTable
from ..style import BLUE, GREY, curve, level, mode_of, plot, share_left_axis
from ..words import number, share, times

if TYPE_CHECKING:
    from ...flow import GradientFlow

_LOOK = {"trained": (BLUE, None), "untrained": (GREY, "dot")}


def section(run: RunContents) -> Section:
    """The by-lag curves of the trained and the untrained network."""
    title = "How far back the gradient reaches"
    if not run.flows:
        why = run.missing.get("flow/trained", "it was not measured")
        return Section("by-lag", title, [f"There is no gradient flow in this run: {why}."])
    words = [
        f"The {name} network is missing from this figure: {run.missing[f'flow/{name}']}."
        for name in _LOOK
        if name not in run.flows
    ]
    words += [f"Of the {name} network: {note.rstrip('.')}." for name, flow in run.flows.items() for note in flow.notes]
    layers = run.layers
    return Section("by-lag", title, words, figures=[_figure(run, layers)], choices=layers)


def window(flow: GradientFlow) -> int:
    """How many steps a measured sequence has."""
    return int(flow.norms.shape[-1])


def _figure(run: RunContents, layers: list[str]) -> Figure:
    from ...flow.curves import shares  # brings torch, which a run without a flow does not wait for

    traces: list[Any] = []
    by_layer: dict[str, dict[str, np.ndarray[Any, np.dtype[np.float64]]]] = {}
    lowest = highest = 1.0
    for name, curves in run.curves.items():
        ends = run.horizons[name]
        for choice, layer in enumerate(layers):
            norms = curves[choice]
            left = shares(norms)
            by_layer.setdefault(layer, {})[name] = left
            seen = left[np.isfinite(left) & (left > 0)]
            if seen.size:
                lowest, highest = min(lowest, float(seen.min())), max(highest, float(seen.max()))
            traces.append(_curve(name, norms, left, choice))
            if ends[layer] < len(left):
                other = next(
                    (lags.get(layer, math.nan) for twin, lags in run.horizons.items() if twin != name), math.nan
                )
                traces.append(_mark(name, int(ends[layer]), other, left, choice))
    lags = max(window(flow) for flow in run.flows.values())
    traces.append(level(lags - 1, FRACTION, "1 %", width=1, dash=None))
    axis, cut = share_left_axis(lowest, highest)
    figure = plot(
        *traces,
        height=400,
        xaxis={"title": {"text": "lag: steps back from the loss"}, "rangemode": "tozero"},
        yaxis=axis,
    )
    return Figure(
        figure,
        "Share of the gradient left, by lag",
        "Read it from the left: how strongly an error now still pulls on the network's state so many steps earlier, "
        "as a share of what it is at the first lag that has any (lag 0, unless the loss does not look at its own "
        "step), on a logarithmic axis. A straight line downwards is a gradient that "
        "shrinks by the same factor at each step; where it crosses the 1 % line (marked), the network can hardly "
        "learn from anything further back. The mean is over all steps and sequences measured; few pairs are that "
        "far apart at the right edge, so it is rougher there." + cut,
        "Line chart of the share of the gradient left by lag. " + " ".join(reaches(run)),
        _table(by_layer),
    )


def reaches(run: RunContents) -> list[str]:
    """A sentence for each network measured: how far its gradient reaches, in every layer."""
    sentences = []
    for name, flow in run.flows.items():
        found = run.horizons[name]
        ends = []
        for layer, lag in found.items():
            where = f" in layer {layer}" if len(found) > 1 else ""
            if math.isfinite(lag):
                ends.append(f"after {times(lag, 'step')} less than 1 % of it is left{where}")
            else:
                ends.append(f"more than 1 % of it is left over the whole window of {window(flow)} steps{where}")
        sentences.append(f"The gradient of the {name} network: {'; '.join(ends)}.")
    return sentences


def _curve(name: str, norms: Any, left: Any, choice: int) -> Any:
    color, dash = _LOOK[name]
    y = np.where(left > 0, left, np.nan)  # a log axis has no zero, and what is below the range is not zero
    hover = f"{name}, lag %{{x}}<br>%{{y:.3~g}} of the first<br>norm %{{customdata:.3~g}}"
    more = {"customdata": norms, "meta": {"choice": choice}, "mode": mode_of(left, 2)}
    return curve(np.arange(len(left)), y, name, color, hover=hover, dash=dash, **more)


def _mark(name: str, lag: int, other: float, left: Any, choice: int) -> Any:
    """The point where the curve falls under 1 %, with its lag next to it and clear of the `other` network's."""
    height = float(left[lag]) if 0 < left[lag] < math.inf else FRACTION
    near = abs(other - lag) < 0.1 * len(left)
    side = "top right" if lag < 0.85 * len(left) else "top left"
    if near and lag < other:  # two labels would overlap: the left one goes below its curve, if there is room
        side = "bottom left" if lag > 0.15 * len(left) else ""
    elif lag == other and name == "untrained":
        side = ""
    return go.Scatter(
        x=[lag],
        y=[min(height, FRACTION)],
        text=[times(lag, "step")],
        textposition=side or None,
        mode="markers+text" if side else "markers",
        showlegend=False,
        marker={"color": _LOOK[name][0], "size": 10, "symbol": "circle" if name == "trained" else "diamond"},
        meta={"choice": choice},
        hovertemplate=f"{name}: under 1 % from lag {lag} on<extra></extra>",
    )


def _table(by_layer: dict[str, dict[str, Any]]) -> TextTable:
    names = [name for name in _LOOK if any(name in layer for layer in by_layer.values())]
    rows = []
    for layer, curves in by_layer.items():
        lags = max(map(len, curves.values()))
        shown = [lag for lag in SHOWN_LAGS if lag < lags]
        for lag in sorted({*shown, lags - 1}):
            cells = [share_left(curves[name], lag) if name in curves else "—" for name in names]
            rows.append([*([layer] if len(by_layer) > 1 else []), str(lag), *cells])
    return TextTable("Share left at some lags", rows, (*(["layer"] if len(by_layer) > 1 else []), "lag", *names))


def share_left(curve: Any, lag: int) -> str:
    """The share at one lag; small ones keep their digits, which says more than "less than 0.1 %"."""
    if lag >= len(curve):
        return "—"
    value = float(curve[lag])
    if math.isnan(value):
        return "not measured"
    return share(value) if value == 0 or value >= 0.001 or not math.isfinite(value) else f"{number(100 * value, 2)} %"
