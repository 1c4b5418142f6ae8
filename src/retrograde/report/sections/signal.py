"""What the data asks the network to remember, and what is left to learn, by lag."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ..run import RunContents
from ..section import Figure, Section, TextTable
from ..style import BLUE, GREY, plot
from ..words import number, share, times

if TYPE_CHECKING:
    from ...flow import NetworkSignal, Signal
    from ...flow.learning_signal.saving import RunSignal

TITLE = "What the data asks for"


def section(run: RunContents) -> Section | None:
    """The consistency of the gradient at every lag, of the untrained and the trained network."""
    found = run.signal
    if found is None:
        if "signal.json" not in run.missing:
            return None  # it is measured only when asked for
        return Section("signal", TITLE, [f"The signal by lag cannot be shown: {run.missing['signal.json']}."])
    words = [sentence(found)]
    if (left := found.left.error_share) is not None and math.isfinite(left):
        words.append(
            f"Trained, the network shows {found.left}. {share(left)} of the error of a constant output is left: the "
            "less, the less that signal matters."
        )
    words += [f"{note[0].upper()}{note[1:]}." for note in dict.fromkeys([*found.asked.notes, *found.left.notes])]
    layers = [signal.layer for signal in found.asked.layers]
    figures = [_figure(found, layers)] if layers else []
    return Section("signal", TITLE, words, figures=figures, choices=layers)


def sentence(found: RunSignal) -> str:
    """What the data asks for, compared with how far the gradient of the trained network reaches."""
    asked, ends = found.asked, [lag for lag in found.reach.values() if math.isfinite(lag)]
    if asked.need is None:
        return f"Of the untrained network, {asked}."
    reach = f"; 1 % of the trained network's gradient is left after {times(max(ends), 'step')}" if ends else ""
    return f"The data asks for a memory of {times(asked.need, 'step')} ({asked.sequences:,} sequences){reach}."


def _figure(found: RunSignal, layers: list[str]) -> Figure:
    traces: list[Any] = []
    rows = []
    for name, network, color in (("asked for", found.asked, BLUE), ("left to learn", found.left, GREY)):
        for signal in network.layers:
            if signal.layer in layers:
                traces.append(_bars(signal, name, color, layers.index(signal.layer)))
    for signal in found.asked.layers:
        rows += _rows(signal, found.left, len(layers) > 1)
    figure = plot(
        *traces,
        xaxis={"title": {"text": "lag: steps back from the loss"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "consistency"}, "tickformat": ".2~%", "rangemode": "tozero"},
        bargap=0,
    )
    return Figure(
        figure,
        "Consistency of the gradient over sequences, by lag",
        "At each lag, how much the sequences agree on the gradient of the recurrent layer's weights: 0 where chance "
        "explains it, 100 % where all are equal. A tall bar far to the right is something to remember for long, "
        "however small the gradient has become there. Solid bars have a signal by themselves; pale ones do not.",
        f"Bar chart of the consistency by lag. {sentence(found)}",
        TextTable(
            "Signal by lag", rows, (*(["layer"] if len(layers) > 1 else []), "lag", "asked for", "p", "left", "p")
        ),
    )


def _bars(signal: Signal, name: str, color: str, choice: int) -> Any:
    width = signal.last - signal.first + 1
    return go.Bar(
        x=(signal.first + signal.last) / 2,
        y=np.nan_to_num(signal.consistency).clip(min=0),
        width=width * 0.45,
        offset=(-0.45 if name == "asked for" else 0.0) * width,
        name=name,
        marker={"color": color, "opacity": np.where(signal.significant, 1.0, 0.25)},
        customdata=np.stack([signal.p_value, signal.first, signal.last], 1),
        hovertemplate=f"{name}, lag %{{customdata[1]}} to %{{customdata[2]}}<br>%{{y:.2%}}, "
        "p = %{customdata[0]:.1g}<extra></extra>",
        meta={"choice": choice},
    )


def _rows(asked: Signal, left: NetworkSignal, several: bool) -> list[list[str]]:
    other = next((signal for signal in left.layers if signal.layer == asked.layer), None)
    rows = []
    for i, (first, last) in enumerate(zip(asked.first.tolist(), asked.last.tolist(), strict=True)):
        at = [] if other is None else np.flatnonzero(other.first == first).tolist()
        cells = [*_cells(asked, i), *(_cells(other, at[0]) if other is not None and at else ["—", "—"])]
        rows.append(
            [*([asked.layer] if several else []), str(first) if first == last else f"{first} to {last}", *cells]
        )
    return rows


def _cells(signal: Signal, i: int) -> list[str]:
    consistency = float(signal.consistency[i])
    if math.isnan(consistency):
        return ["no gradient", "—"]
    return [share(max(consistency, 0.0)), number(float(signal.p_value[i]), 1)]
