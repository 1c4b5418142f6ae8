"""How far the gradient reached at each stage of training: what the recorder wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..run import RecordedFlow, RunContents
from ..section import Figure, Section, TextTable
from ..style import BLUE, GREY, ORANGE, curve, plot, share_left_axis
from ..words import number, share, times

_LAGS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_LOOK = ((BLUE, "solid"), (ORANGE, "dash"), (GREY, "dot"), (BLUE, "dashdot"))


def section(run: RunContents) -> Section | None:
    """The share of the gradient left at some lags, against the training step; None where nothing was recorded."""
    return section_of(run.recorded, "on the same held-out sequences")


def section_of(recorded: Sequence[RecordedFlow], where: str) -> Section | None:
    """The section of some records; ``where`` says on which sequences they were measured."""
    records = [record for record in recorded if record.by_lag]
    if not records:
        return None
    title = "The reach of the gradient while training"
    layers = [label for label in records[0].by_lag if all(label in record.by_lag for record in records)]
    skipped = sum(record.skipped for record in records)
    words = [f"It was measured {times(len(records), 'time')} while training, {where}."]
    overhead = records[-1].overhead
    if math.isfinite(overhead):
        words[0] += f" That took {share(overhead)} of the time"
        words[0] += (
            f"; {times(skipped, 'measurement')} more would have taken too much and were left out." if skipped else "."
        )
    failed = len(recorded) - len(records)
    warnings = [f"{times(failed, 'measurement')} failed: {_reason(recorded)}."] if failed else []
    steps = [record.step for record in records]
    curves = {label: [_curve(record, label) for record in records] for label in layers}
    figures = [_figure(steps, curves)] if layers else []
    return Section("recorded", title, words, warnings=warnings, figures=figures, choices=layers)


def _reason(recorded: Sequence[RecordedFlow]) -> str:
    return next((record.error[:200].rstrip(".") for record in recorded if record.error), "no layer was measured")


def _curve(record: RecordedFlow, label: str) -> list[float]:
    """Share of the first norm left at each lag."""
    import numpy as np

    from ...flow.curves import shares  # brings torch, which a run without records does not wait for

    return [float(value) for value in shares(np.array(record.by_lag[label], dtype=np.float64))]


def _figure(steps: list[float], curves: dict[str, list[list[float]]]) -> Figure:
    longest = max(len(curve) for layer in curves.values() for curve in layer)
    lags = [lag for lag in _LAGS if lag < longest][::2][:4] or [0]
    traces: list[Any] = []
    rows = []
    lowest = highest = 1.0
    for choice, (label, layer) in enumerate(curves.items()):
        for lag, (color, dash) in zip(lags, _LOOK, strict=False):
            left = [curve[lag] if lag < len(curve) and curve[lag] > 0 else math.nan for curve in layer]
            seen = [value for value in left if 0 < value < math.inf]
            lowest, highest = min([lowest, *seen]), max([highest, *seen])
            back = f"{times(lag, 'step')} back"
            hover = f"step %{{x:,}}<br>%{{y:.3~g}} left {back}"
            more = {"mode": "lines+markers", "marker": {"size": 5}, "meta": {"choice": choice}}
            traces.append(curve(steps, left, back, color, hover=hover, width=2.2, dash=dash, **more))
            for step, value in list(zip(steps, left, strict=True))[:: max(1, len(steps) // 10)]:
                rows.append([label, f"{int(step):,}", str(lag), "—" if math.isnan(value) else number(value)])
    axis, cut = share_left_axis(lowest, highest)
    figure = plot(
        *traces,
        xaxis={"title": {"text": "training step"}, "rangemode": "tozero"},
        yaxis=axis,
    )
    return Figure(
        figure,
        "Share of the gradient left, by training step",
        "How much of the gradient is left so many steps before the loss, as a share of what it is where it starts, "
        "on a logarithmic axis. Lines that rise: the network learns to remember further back. Lines that fall: its "
        "gradient vanishes sooner than before. Above 100 % it grows on its way back." + cut,
        f"Line chart of the share of the gradient left over {times(len(steps), 'measurement')} while training.",
        TextTable("Some measurements", rows, ("layer", "training step", "lag", "share left")),
    )
