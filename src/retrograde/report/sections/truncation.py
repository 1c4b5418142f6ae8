"""Where the gradient of the recurrent weights comes from, and what shorter truncated BPTT would lose."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ...errors import FlowError
from ..run import RunContents
from ..section import SHOWN_LAGS, Figure, Section, TextTable
from ..style import BLUE, GREY, ORANGE, curve, mode_of, plot
from ..words import number, share, times

if TYPE_CHECKING:
    from ...flow import GradientFlow
    from ...flow.contributions import Contributions, Truncation

_KEPT = 0.99
_CHEAP = 3e10  # multiplications: about a second
_REST = 0.002  # lags that hold less than this together are left to the zoom


def section(run: RunContents) -> Section | None:
    """Shares by lag of each layer's W, and the truncation curve of all recurrent parameters."""
    title = "What the weights learn from"
    name = next(iter(run.flows), None)
    if name is None:
        return None
    flow = run.flows[name]
    if flow.effort > _CHEAP:
        how = f"rg.GradientFlow.load({str(run.folder / 'flow' / name)!r})"
        why = f"for a network of this size that takes a while: {how} has plot_shares() and plot_truncation()"
        return Section("truncation", title, [f"The shares of the lags were not measured; {why}."])
    try:
        parts = {label: flow.contributions(flow.weight(label)) for label in flow.layers}
        cut = flow.truncation()
    except FlowError as error:
        return Section("truncation", title, [f"The shares of the lags are not in this run: {error}"])
    of = "The trained network" if name == "trained" else "The network before training"
    if not (np.isfinite(cut.norm).all() and all(np.isfinite(part.share).all() for part in parts.values())):
        return Section("truncation", title, [f"{of} has no gradient that recurrent weights could learn from."])
    words = [_finding(cut, flow, run, of)]
    figures = [_shares(parts, of), _truncation(cut, flow, run)]
    return Section("truncation", title, words, figures=figures, choices=list(parts))


def _finding(cut: Truncation, flow: GradientFlow, run: RunContents, of: str) -> str:
    shortest, longest = cut.shortest(_KEPT), int(cut.length[-1])
    if shortest == longest > 1:
        found = f"{of} needs all {longest} steps that were measured to see {share(_KEPT)} of its gradient"
    else:
        found = (
            f"{of} gets {share(_KEPT)} of the gradient of its recurrent weights from the last "
            f"{times(shortest, 'step')} (of {longest} measured)"
        )
    bptt = run.task.bptt
    if bptt is None:
        return f"{found}."
    if bptt >= longest:
        return f"{found}; it was trained with backpropagation through {bptt}."
    kept = share(float(cut.share[bptt - 1]))
    return f"{found}; backpropagation through {bptt} steps, as trained, keeps {kept}."


def _shares(parts: dict[str, Contributions], of: str) -> Figure:
    traces: list[Any] = []
    rows = []
    first, last = 0, 5
    sentences = []
    for choice, (label, part) in enumerate(parts.items()):
        assert part.lags is not None
        lags, values = part.lags, part.share
        total = np.cumsum(values)
        rest = np.abs(values)[::-1].cumsum()[::-1]
        last = max(last, int(lags[min(int((rest > _REST).sum()), len(lags) - 1)]))
        first = min(first, int(lags[min(int((np.abs(values).cumsum() <= _REST).sum()), len(lags) - 1)]))
        traces.append(
            go.Bar(
                x=lags,
                y=values,
                name="share of the lag",
                marker={"color": [BLUE if value >= 0 else ORANGE for value in values]},
                meta={"choice": choice},
                hovertemplate="lag %{x}<br>share %{y:.3~g}<extra></extra>",
            )
        )
        more: dict[str, Any] = {"line": {"color": GREY, "width": 2, "shape": "hvh"}, "meta": {"choice": choice}}
        traces.append(curve(lags, total, "sum up to the lag", GREY, hover="up to lag %{x}<br>%{y:.3~g}", **more))
        half = int(lags[int(np.flatnonzero(total >= 0.5)[0])]) if (total >= 0.5).any() else int(lags[-1])
        sentences.append(f"In {label}, half of the gradient comes from lags up to {half}.")
        shown = [i for i, lag in enumerate(lags) if lag in SHOWN_LAGS]
        rows += [[label, str(lags[i]), number(float(values[i])), number(float(total[i]))] for i in shown]
    figure = plot(
        *traces,
        bargap=0.1,
        xaxis={"title": {"text": "lag: steps back from the loss"}, "range": [first - 0.7, last + 0.7]},
        yaxis={"title": {"text": "share of the gradient of W"}, "rangemode": "tozero"},
    )
    return Figure(
        figure,
        "The gradient of W, by lag",
        f"{of}: of the whole gradient of the weights from state to state, the part that came from states so many steps "
        "before the loss, measured along the whole. Parts add up to 1; one below zero (orange) pulls against the rest.",
        "Bar chart of the share of each lag in the gradient of the recurrent weights. " + " ".join(sentences),
        TextTable("Share of some lags", rows, ("layer", "lag", "share", "sum")),
    )


def _truncation(cut: Truncation, flow: GradientFlow, run: RunContents) -> Figure:
    shortest = cut.shortest(_KEPT)
    cosine = np.cos(np.radians(cut.angle))
    lines = {
        "norm": (cut.norm, BLUE, "solid", "norm %{y:.3~g} of the whole"),
        "cosine": (cosine, ORANGE, "dash", "cosine of the angle %{y:.4~g}"),
        "share kept": (cut.share, GREY, "dot", "share kept %{y:.3~g}"),
    }
    mode = mode_of(cut.length, 2)
    traces: list[Any] = [
        curve(cut.length, values, name, color, hover=f"length %{{x}}<br>{hover}", dash=dash, mode=mode)
        for name, (values, color, dash, hover) in lines.items()
    ]
    marks = {shortest: f"99 %: {shortest}"}
    bptt = run.task.bptt
    if bptt is not None and bptt < cut.length[-1]:
        marks[bptt] = f"trained: {bptt}" if bptt != shortest else f"99 %, trained: {bptt}"
    logarithmic = len(cut.length) > 20
    for height, (at, text) in enumerate(marks.items()):
        traces.append(
            go.Scatter(
                x=[at],
                y=[float(cut.share[at - 1])],
                text=[text],
                textposition="bottom right" if height == 0 and at < len(cut.length) ** 0.85 else "bottom left",
                mode="markers+text",
                showlegend=False,
                marker={"color": GREY, "size": 10, "symbol": "circle" if height == 0 else "diamond"},
                hoverinfo="skip",
            )
        )
    axis: dict[str, Any] = {"title": {"text": "length of truncated BPTT (steps)"}}
    if logarithmic:
        ticks = [m * 10**p for p in range(6) for m in (1, 2, 5) if m * 10**p <= cut.length[-1]]
        axis |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,}" for tick in ticks]}
        axis["range"] = [-0.04, math.log10(int(cut.length[-1])) + 0.04]
    figure = plot(*traces, xaxis=axis, yaxis={"title": {"text": "compared with the whole gradient"}})
    rows = [
        [f"{length:,}", number(float(cut.norm[i])), f"{number(float(cut.angle[i]), 2)}°", number(float(cut.share[i]))]
        for i, length in enumerate(cut.length)
        if length in {*SHOWN_LAGS, shortest, int(cut.length[-1])}
    ]
    return Figure(
        figure,
        "What truncated BPTT would lose",
        "The gradient of all recurrent weights that backpropagation cut off after so many steps would give, compared "
        "with the whole: its length, and the cosine of the angle between the two (1: the same direction). Where all "
        f"three lie at 1, longer sequences would teach these weights nothing more; {share(_KEPT)} are marked.",
        f"Line chart of truncated BPTT: {times(shortest, 'step')} keep 99 % of the gradient.",
        TextTable("At some lengths", rows, ("length", "norm", "angle", "share kept")),
    )
