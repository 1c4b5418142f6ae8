"""The size of the gradient while training, before clipping, and how often it was clipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..run import RunContents, real
from ..section import Figure, Section
from ..style import BLUE, ORANGE, curve, level, mode_of, plot
from ..words import count, number, share


def section(run: RunContents) -> Section:
    """The gradient-norm history."""
    title = "Size of the gradient while training"
    median = run.series(lambda line: line.gradient_norm_median)
    if not any(map(math.isfinite, median)):
        return Section("gradient-norms", title, ["No gradient norm was recorded in this run."])
    return Section("gradient-norms", title, [clipping(run)], figures=[_figure(run, median)])


def clipped_share(run: RunContents) -> float:
    """Share of all steps that were clipped: each line's share weighted by the steps since the line before."""
    clipped = steps = before = 0.0
    for step, part in zip(run.steps, run.series(lambda line: line.clipped_share), strict=True):
        if math.isfinite(part):
            clipped += part * (step - before)
            steps += step - before
        before = step
    return clipped / steps if steps > 0 else math.nan


def clipping(run: RunContents) -> str:
    """Whether clipping was on, at what threshold, and how often it acted."""
    limit, by_value = _limit(run), real(run.config.options.clip_value)
    if math.isfinite(limit):
        how = f"at a global norm of {number(limit)}"
    elif math.isfinite(by_value):
        how = f"by value at {number(by_value)}"
    elif run.metrics:
        return "Gradients were not clipped."
    else:
        return "Whether gradients were clipped is not recorded."
    part = clipped_share(run)
    if not math.isfinite(part):
        return f"Gradients were clipped {how}; how often is not recorded."
    if part == 0:
        return f"Gradients were to be clipped {how}, but none ever was."
    return f"Gradients were clipped {how}: it was active in {share(part)} of the steps."


def _limit(run: RunContents) -> float:
    """The clipping threshold on the global norm; NaN if there is none."""
    recorded = [limit for limit in run.series(lambda line: line.clip_norm) if math.isfinite(limit)]
    return recorded[-1] if recorded else real(run.config.options.clip_norm)


def _figure(run: RunContents, median: Sequence[float]) -> Figure:
    steps = run.steps
    low, high = run.series(lambda line: line.gradient_norm_min), run.series(lambda line: line.gradient_norm_max)
    mode, band = mode_of(steps), "rgba(61,130,196,0.25)"

    def part(values: Sequence[float], name: str, which: str, color: str, **more: Any) -> Any:
        hover = f"step %{{x:,}}<br>{which} %{{y:.3~g}}"
        return curve(steps, _positive(values), name, color, hover=hover, mode=mode, **more)

    thin = {"width": 1, "marker": {"size": 3}}
    traces = [
        part(low, "", "smallest", band, showlegend=False, **thin),
        part(high, "smallest to largest", "largest", band, fill="tonexty", fillcolor=band, **thin),
        part(median, "median", "median", BLUE),
    ]
    limit, clipped = _limit(run), run.series(lambda line: line.clipped_share)
    if math.isfinite(limit):
        traces.append(level(max(steps), limit, "clipped above", ORANGE, hover="clipping threshold %{y:.3~g}"))
    drawn = [value for value in (*_positive(low), *_positive(high)) if value > 0]
    ends = [math.floor(math.log10(min(drawn))), math.ceil(math.log10(max(drawn)))] if drawn else [0, 1]
    digits = (1, 2, 5) if ends[1] - ends[0] <= 3 else (1,)
    ticks = [digit * 10.0**power for power in range(ends[0], ends[1] + 1) for digit in digits]
    ticks = ticks[:: math.ceil(len(ticks) / 16)]
    figure = plot(
        *traces,
        legend={"traceorder": "normal"},
        xaxis={"title": {"text": "training step"}, "tickformat": ",", "rangemode": "tozero"},
        yaxis={
            "title": {"text": "gradient norm"},
            "type": "log",
            "tickvals": ticks,
            "ticktext": list(map(number, ticks)),
        },
    )
    shown = any(map(math.isfinite, clipped))
    if shown:
        fill: dict[str, Any] = {"fill": "tozeroy", "fillcolor": "rgba(217,113,31,0.2)", "yaxis": "y2", "mode": mode}
        hover = "step %{x:,}<br>clipped %{y:.1%}"
        figure.add_trace(curve(steps, clipped, "share of steps clipped", ORANGE, hover=hover, width=1.5, **fill))
        figure.update_layout(
            height=480,
            xaxis={"anchor": "y2"},
            yaxis={"domain": [0.34, 1]},
            yaxis2={
                "domain": [0, 0.22],
                "range": [0, 1.02],
                "tickformat": ".0%",
                "tickvals": [0, 0.5, 1],
                "title": {"text": "clipped", "font": {"size": 13}},
                "zeroline": False,
                "automargin": True,
            },
        )
    largest = max(filter(math.isfinite, high), default=math.nan)
    return Figure(
        figure,
        "Gradient norm before clipping",
        "How strong the gradient was, over all weights together, at each update: the median between two evaluations, "
        "within the band from "
        "the smallest to the largest, on a logarithmic axis. Spikes far above the rest are exploding gradients; "
        + ("whatever lies above the dashed line was scaled down to it. " if math.isfinite(limit) else "")
        + ("The lower panel is the share of steps that were clipped." if shown else ""),
        f"Line chart of the gradient norm by training step. The largest was {number(largest)}"
        f" within {count(max(steps))} steps. {clipping(run)}",
    )


def _positive(values: Sequence[float]) -> list[float]:
    return [value if value > 0 and math.isfinite(value) else math.nan for value in values]
