"""A flow as a notebook shows it: the verdicts, two pictures, the numbers."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from ..summary import growth_words, half_life_words, horizon_words, summarise
from .by_lag import plot_by_lag
from .heatmap import plot_heatmap

if TYPE_CHECKING:
    from ..result import GradientFlow
    from ..summary import Summary

_CELL = "padding:1px 10px;text-align:right;font-variant-numeric:tabular-nums"


def page(flow: GradientFlow) -> str:
    """HTML that stands by itself: the pictures are inside it."""
    summary = summarise(flow)
    verdicts = "".join(
        f"<li><b>{escape(label)}</b>: {escape(words)}</li>"
        for label, words in zip(summary.layers, summary.verdict, strict=True)
    )
    notes = "".join(f"<p><small>Note: {escape(note)}</small></p>" for note in summary.notes)
    return (
        f"<div><p>{escape(repr(flow))}</p><ul>{verdicts}</ul>{_pictures(flow, summary)}"
        f"{_measures(summary)}<details><summary>By lag</summary>{_by_lag(summary)}</details>{notes}</div>"
    )


def _pictures(flow: GradientFlow, summary: Summary) -> str:
    # A figure of its own, out of pyplot's sight: the notebook must not show it a second time.
    from matplotlib.figure import Figure

    lags = any(kind != "unknown" for kind in summary.kinds)
    figure = Figure(figsize=(11 if lags else 5.5, 4.0), layout="constrained")
    *others, last = figure.subplots(1, 1 + lags, squeeze=False)[0]
    for ax in others:
        plot_by_lag(flow, ax)
    plot_heatmap(flow, last)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    told = escape("; ".join(f"{a}: {b}" for a, b in zip(summary.layers, summary.verdict, strict=True)), quote=True)
    return f'<img alt="{told}" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"/>'


def _measures(summary: Summary) -> str:
    rows = [["layer", "near → far", "growth/step", "half-life", f"horizon ({summary.fraction:.2g})"]]
    for i, label in enumerate(summary.layers):
        growth = summary.growth_per_step[i]
        rows.append(
            [
                label,
                summary.sparkline[i],
                growth_words(growth),
                half_life_words(summary.half_life[i]),
                "—"
                if summary.kinds[i] in ("none", "unknown")
                else horizon_words(summary.horizon[i], summary.curves.shape[1]),
            ]
        )
    return _table(rows)


def _by_lag(summary: Summary) -> str:
    rows = [["lag", *summary.layers]]
    rows += [[str(lag), *(f"{norm:.3g}" for norm in norms)] for lag, norms, _ in summary.rows()]
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    head = "".join(f'<th style="{_CELL}">{escape(cell)}</th>' for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows[1:]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
