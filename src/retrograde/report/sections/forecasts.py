"""Forecasts next to what came, and the error of each series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import plotly.graph_objects as go

from ...runs import BacktestRow, Forecast, Part
from ..run import RunContents, real
from ..section import Figure, Section, TextTable
from ..style import BLUE, GREY, ORANGE, curve, plot
from ..words import number

_ROWS = 30  # of the table of series
_PAST = 3  # horizons of what was read that are drawn
_ORDER = {"traceorder": "normal"}  # of the legend, which areas turn around otherwise
_BAND = "rgba(217, 113, 31, 0.22)"  # orange, through which the curves are seen


def section(run: RunContents) -> Section | None:
    """The last forecasts of the part that is judged last, as curves, and the errors by series; None of other tasks."""
    name, part = next(
        ((name, run.results.parts[name]) for name in ("test", "validation") if name in run.results.parts)
        if run.results is not None
        else iter(()),
        ("", Part()),
    )
    if not part.forecasts:
        return None
    words = [
        f"The last forecast of the {name} part, made from the steps on the left of it alone. The dashed line is the "
        "naive forecast that the network adds to: where both lie on each other, it adds nothing."
    ]
    if set(part.forecasts[0].quantiles) - {"quantile 0.5"}:
        words.append(
            "The band lies between the quantiles that were forecast. Half of what comes shall be above the forecast, "
            "their median, and as much of it inside an interval as its name says: the results have how much was."
        )
    tables = [_by_series(part)] if len(part.series) > 1 else []
    figures = [_figure(one) for one in part.forecasts]
    if (tested := part.backtest) is not None:
        apart = f", {tested.stride} steps apart" if len(tested.origins) > 1 else ""
        words.append(
            f"The backtest forecasts from {len(tested.origins)} origins{apart}: the network stays as it is, and reads "
            "what came before each origin."
        )
        figures += [_backtest("origin", tested.origins)] * (len(tested.origins) > 1) + [_backtest("step", tested.steps)]
    return Section("forecasts", "Forecasts", words, figures=figures, tables=tables)


def _figure(one: Forecast) -> Figure:
    past = list(map(real, one.past))[-_PAST * len(one.actual) :]
    actual, forecast, baseline = (list(map(real, values)) for values in (one.actual, one.forecast, one.baseline))
    before, after = list(range(1 - len(past), 1)), list(range(0 if past else 1, len(actual) + 1))
    start = past[-1:]  # so that no curve begins in mid-air
    traces = [
        *_bands(one, after, start),
        curve(before, past, "read", GREY, hoverinfo=None),
        curve(after, start + actual, "what came", BLUE, mode="lines+markers", hoverinfo=None),
        curve(after, start + forecast, "forecast", ORANGE, mode="lines+markers", hoverinfo=None),
        curve(after, start + baseline, "naive", GREY, dash="dash", hoverinfo=None),
    ]
    name = " ".join(filter(None, [one.series, one.channel]))
    missed = [abs(a - b) for a, b in zip(actual, forecast, strict=False) if a == a and b == b]
    mean = f"; it misses by {number(sum(missed) / len(missed))} on average" if missed else ""
    return Figure(
        plot(
            *traces,
            legend=_ORDER,
            xaxis={"title": {"text": "steps after the last one read"}},
            yaxis={"title": {"text": "value"}},
        ),
        name,
        f"{len(actual)} steps, in the units of the data{mean}.",
        f"Line chart of {name}: what was read, what came, the forecast, and the naive forecast{mean}.",
    )


def _backtest(by: str, rows: list[BacktestRow]) -> Figure:
    """MASE of the network and of the naive forecasts, by origin or by step of the horizon."""
    x = list(range(1, len(rows) + 1))
    mase = [real(row.scores.get("mase")) for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row.baselines))
    others = {name: [real(row.baselines.get(name, {}).get("mase")) for row in rows] for name in names}
    traces = [curve(x, mase, "network", ORANGE, mode="lines+markers", hoverinfo=None)]
    traces += [
        curve(x, values, name, GREY, dash=dash, hoverinfo=None)
        for dash, (name, values) in zip(("dash", "dot"), others.items(), strict=False)
    ]
    title = "origin, the last on the right" if by == "origin" else "step of the horizon"
    axes: dict[str, Any] = {
        "xaxis": {"title": {"text": title}},
        "yaxis": {"title": {"text": "MASE"}, "rangemode": "tozero"},
    }
    columns = (by, "MASE", *(f"{name}: MASE" for name in others))
    values = zip(rows, mase, *others.values(), strict=True)
    return Figure(
        plot(*traces, **axes),
        f"Backtest: error by {by}",
        "Below 1 is better than what one step of the seasonal naive forecast misses by in training.",
        f"Line chart of the MASE by {by}; the largest is {number(max(mase, default=float('nan')))}.",
        TextTable(f"Backtest by {by}", [[row.name, *map(number, some)] for row, *some in values], columns),
    )


def _bands(one: Forecast, steps: list[int], start: list[float]) -> Iterator[go.Scatter]:
    """The area between each pair of quantiles, the widest first, and a line for one without partner."""
    levels = {float(name.rpartition(" ")[2]): list(map(real, curve)) for name, curve in one.quantiles.items()}
    low, high = sorted(level for level in levels if level < 0.5), sorted(level for level in levels if level > 0.5)[::-1]
    for below, above in zip(low, high, strict=False):
        quiet: dict[str, Any] = {"width": 0.5, "hoverinfo": None}
        name = f"{100 * (above - below):.4g} % interval"
        yield curve(steps, start + levels[below], name, ORANGE, showlegend=False, **quiet)
        yield curve(steps, start + levels[above], name, ORANGE, fill="tonexty", fillcolor=_BAND, **quiet)
    for level in [*low[len(high) :], *high[len(low) :]]:
        yield curve(steps, start + levels[level], f"{100 * level:.4g} % quantile", ORANGE, dash="dot", hoverinfo=None)


def _by_series(part: Part) -> TextTable:
    keys = {"mase": "MASE", "baseline_mase": "naive: MASE", "mae": "MAE"}
    ordered = sorted(part.series.items(), key=lambda item: -real(item[1].get("mase")))
    rows = [[name, *(number(real(scores.get(key))) for key in keys)] for name, scores in ordered[:_ROWS]]
    title = (
        "Error of each series, the worst first"
        if len(ordered) <= _ROWS
        else f"The {_ROWS} series with the largest error"
    )
    return TextTable(title, rows, ("series", *keys.values()))
