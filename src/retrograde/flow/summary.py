"""A measured flow in a few numbers and words: growth per step, half-life, horizon, verdict.

Computed in one place, so that the terminal, the notebook and the plots agree.

Tests: `tests/flow/test_summary.py`, `tests/flow/test_pictures.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from ..words import counted
from .curves import Curve, below, first, mean_curves

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from .result import GradientFlow

Array = NDArray[np.float64]

_BLOCKS = "▁▂▃▄▅▆▇█"
_FIT_DECADES = 30.0  # smaller values are left out of the fit: they may be rounding
_SPARK_DECADES = (3.0, 12.0)  # at least and at most: a gradient that keeps a fifth does not look as one that vanishes


@dataclass(frozen=True)
class Summary:
    """What became of the gradient on its way through time; every list has one entry per layer.

    Attributes
    ----------
    layers : list of str
        Labels, as in the flow.
    curves : ndarray
        ‖∂E_t/∂s_{t−lag}‖ by lag `(layers, lags)`, NaN where no pair has that lag.
    growth_per_step : ndarray
        Factor by which the norm changes per step of distance: e to the slope of the line fitted to the logarithm of
        the curve (least squares). NaN where fewer than two lags have a gradient.
    half_life : ndarray
        Steps in which it halves at that rate, ln 2 / −ln(growth); infinite where it does not decrease.
    horizon : ndarray
        First lag at which the norm is under ``fraction`` of its first value; NaN where it lies beyond the last lag.
    fraction : float
        The fraction of the horizon.
    kinds : list of str
        The verdict in one word: ``"vanishing"``, ``"exploding"``, ``"growing"``, ``"steady"``; ``"local"`` (a gradient
        at one lag only), ``"none"`` (at no lag), ``"unknown"`` (lags are not known). The rules are in docs/flow.md.
    verdict : list of str
        The verdict in a sentence.
    sparkline : list of str
        The curve as a line of blocks on a log scale, from the nearest lag to the farthest; blank where it is zero.
    notes : list of str
        What a reader must know about the measurement.
    """

    layers: list[str]
    curves: Array
    growth_per_step: Array
    half_life: Array
    horizon: Array
    fraction: float
    kinds: list[str]
    verdict: list[str]
    sparkline: list[str]
    notes: list[str]

    def lags(self, rows: int = 12) -> list[int]:
        """Lags for a table: all if they are few; else the first, then 1, 2, 5, 10, …, and the last."""
        known = [int(lag) for lag in np.flatnonzero(np.isfinite(self.curves).any(0))]
        if len(known) <= rows:
            return known
        round_numbers = {m * 10**p for p in range(7) for m in (1, 2, 5)} | {0}
        chosen = sorted({known[0], known[-1]} | (round_numbers & set(known)))
        return chosen if len(chosen) <= rows else [chosen[0], *chosen[-rows + 1 :]]

    def rows(self) -> list[tuple[int, list[float], list[float]]]:
        """Rows of the table: the lag, the norm of every layer, and its ratio to the layer's first norm."""
        start = np.array([first(curve) for curve in self.curves])
        with np.errstate(divide="ignore", invalid="ignore"):
            return [(lag, self.curves[:, lag].tolist(), (self.curves[:, lag] / start).tolist()) for lag in self.lags()]

    def table(self, *, ratios: bool = True) -> Table:
        """By lag, the norm of every layer and, with ``ratios``, its ratio to the first norm (a rich table)."""
        table = _table("lag")
        for label in self.layers:
            table.add_column(label, justify="right", no_wrap=True)
            if ratios:
                table.add_column("of first", justify="right", style="dim")
        for lag, norms, shares in self.rows():
            cells = []
            for norm, share in zip(norms, shares, strict=True):
                cells += [_number(norm), _ratio(share)] if ratios else [_number(norm)]
            table.add_row(str(lag), *cells)
        return table

    def measures(self, spark: int = 20) -> Table:
        """One row per layer: a sparkline of ``spark`` characters (0: none), growth per step, half-life, horizon."""
        table = _table("layer", *(["near → far"] if spark else []))
        for heading in ("growth/step", "half-life", f"horizon ({self.fraction:.2g})"):
            table.add_column(heading, justify="right")
        for i, label in enumerate(self.layers):
            growth, half_life, horizon = self.growth_per_step[i], self.half_life[i], self.horizon[i]
            reach = (
                f"beyond {counted(self.curves.shape[1] - 1, 'step')}"
                if math.isnan(horizon)
                else counted(horizon, "step")
            )
            table.add_row(
                label,
                *([sparkline(self.curves[i], spark)] if spark else []),
                growth_words(growth),
                "—" if math.isnan(half_life) else "none" if math.isinf(half_life) else f"{half_life:.3g} steps",
                "—" if self.kinds[i] in ("none", "unknown") else reach,
            )
        return table

    def numbers(self, layer: int, digits: int | None = None) -> dict[str, Any]:
        """The measurements of one layer by name, as JSON has them: None for NaN and infinity.

        With ``digits``, numbers are rounded to so many digits.
        """

        def number(value: float) -> float | None:
            rounded = float(value) if digits is None else float(f"{value:.{digits}g}")
            return rounded if math.isfinite(rounded) else None

        return {
            "growth_per_step": number(self.growth_per_step[layer]),
            "half_life": number(self.half_life[layer]),
            "horizon": number(self.horizon[layer]),
            "kind": self.kinds[layer],
            "verdict": self.verdict[layer],
            "by_lag": [number(norm) for norm in self.curves[layer]],
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Tables as wide as the terminal, then the verdicts."""
        free = options.update_width(10**6)

        def fit(parts: list[Table]) -> bool:
            return all(console.measure(part, options=free).maximum <= options.max_width for part in parts)

        tables = [self.table()]
        columns = len(self.layers)
        while not fit(tables) and columns:  # without the ratios, then with fewer layers in each table
            starts = range(0, len(self.layers), columns)
            tables = [self._part(slice(start, start + columns)).table(ratios=False) for start in starts]
            columns -= 1
        for table in tables:
            yield table
            yield ""
        widest = 32  # characters of the sparkline, of which a narrow terminal leaves fewer
        over = console.measure(self.measures(widest), options=free).maximum - options.max_width
        free_for_it = widest - max(0, over)
        yield self.measures(free_for_it if free_for_it >= 8 else 0)
        yield ""
        for label, words in zip(self.layers, self.verdict, strict=True):
            yield Text(f"{label}: {words}")
        for note in self.notes:
            yield Text(f"Note: {' '.join(note.split())}", style="dim")

    def _part(self, part: slice) -> Summary:
        """The summary of some of its layers."""
        return replace(self, layers=self.layers[part], curves=self.curves[part])

    def __str__(self) -> str:
        lines = zip(self.layers, self.sparkline, self.verdict, strict=True)
        return "\n".join(f"{label}  {spark}  {words}" for label, spark, words in lines)


def summarize(flow: GradientFlow, fraction: float = 0.01, width: int = 20) -> Summary:
    """Growth per step, half-life, horizon and a verdict for every layer of a flow.

    Parameters
    ----------
    flow : GradientFlow
        Of several quantiles the middle one is summarized, of all sequences their mean.
    fraction : float
        Fraction of the first norm that defines the horizon.
    width : int
        Characters of a sparkline, at most.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> rnn, x = torch.nn.RNN(2, 4), torch.randn(30, 3, 2)
    >>> _ = torch.nn.init.orthogonal_(rnn.weight_hh_l0, gain=0.5)
    >>> flow = rg.gradient_flow(rnn, x, loss=lambda output: output[0].square().sum(-1))
    >>> summarize(flow).kinds
    ['vanishing']
    """
    curves = mean_curves(flow)
    growth = np.array([growth_per_step(curve.norms) for curve in curves])
    horizon = np.array([curve.horizon(fraction) for curve in curves])
    with np.errstate(divide="ignore", invalid="ignore"):
        half_life = np.where(growth < 1, math.log(2) / -np.log(growth), np.where(growth >= 1, np.inf, np.nan))
    kinds = [
        "unknown" if own.kind == "refused" else _kind(curve, g, h, fraction)
        for own, curve, g, h in zip(flow.alignments, curves, growth, horizon, strict=True)
    ]
    return Summary(
        layers=list(flow.layers),
        curves=np.stack([curve.norms for curve in curves]),
        growth_per_step=growth,
        half_life=half_life,
        horizon=horizon,
        fraction=fraction,
        kinds=kinds,
        verdict=[
            _special_verdict(flow, i)
            or _verdict(curve.norms, kinds[i], growth[i], half_life[i], horizon[i], fraction, flow.reverse[i])
            for i, curve in enumerate(curves)
        ],
        sparkline=[sparkline(curve.norms, width) for curve in curves],
        notes=list(flow.notes),
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name == "lag" else "left")
    return table


def sparkline(curve: Array, width: int = 32) -> str:
    """A curve as blocks on a log scale of 3 to 12 decades below its largest value; blank where it is zero or unknown.

    >>> sparkline(np.array([1.0, 0.03, 0.001, 0.0])), sparkline(np.array([1.0, 0.5, 0.2]))
    ('█▄▁ ', '█▇▆')
    """
    if not len(curve):
        return ""
    parts = np.array_split(curve, min(width, len(curve)))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.array([np.log10(part[part > 0]).mean() if (part > 0).any() else np.nan for part in parts])
    known = logs[np.isfinite(logs)]
    if not len(known):
        return " " * len(logs)
    top = float(known.max())
    span = float(np.clip(top - known.min(), *_SPARK_DECADES))
    return "".join(
        " " if not np.isfinite(v) else _BLOCKS[round(max(0.0, 1 - (top - v) / span) * (len(_BLOCKS) - 1))] for v in logs
    )


def growth_words(growth: float) -> str:
    """A factor per step with enough digits to distinguish it from 1: over many steps small differences count.

    >>> growth_words(1.002), growth_words(0.99871), growth_words(0.319), growth_words(1.0)
    ('×1.002', '×0.9987', '×0.319', '×1')
    """
    if math.isnan(growth):
        return "—"
    off = abs(growth - 1)
    if off < 1e-9:
        return "×1"
    if not 1e-9 <= off < 0.1:
        return f"×{growth:.3g}"
    digits = max(3, 1 - math.floor(math.log10(off)))
    return "×" + f"{growth:.{digits}f}".rstrip("0").rstrip(".")


def growth_per_step(curve: Array) -> float:
    """Factor per lag of a line fitted to the logarithm of norms by lag; NaN with fewer than two."""
    positive = np.isfinite(curve) & (curve > 0)
    if not positive.any():
        return math.nan
    lags = np.flatnonzero(positive & (curve > np.nanmax(curve) * 10**-_FIT_DECADES))
    if len(lags) < 2:
        return math.nan
    return math.exp(float(np.polyfit(lags, np.log(curve[lags]), 1)[0]))


def _kind(curve: Curve, growth: float, horizon: float, fraction: float) -> str:
    norms, start = curve.norms, curve.start
    known = np.flatnonzero(np.isfinite(norms))
    if start is None:
        return "none"
    if (norms[known] > 0).sum() == 1 and not curve.lost[start:].any():
        return "local"
    if np.isfinite(horizon):
        return "vanishing"
    # By how much the fitted line changes from the first lag to the last: less than a factor of 2 is no trend.
    grown = math.log(norms[known[-1]] / norms[start])  # where so few norms are not far smaller that there is no line
    change = grown if math.isnan(growth) else math.log(growth) * (known[-1] - start)
    if change <= -math.log(2):
        return "vanishing"
    change = min(change, math.log(np.nanmax(norms) / norms[start]))  # growth that was not measured does not count
    return "steady" if change < math.log(2) else "growing" if change < -math.log(fraction) else "exploding"


def _special_verdict(flow: GradientFlow, i: int) -> str | None:
    """The verdict on a layer of which the curve does not say enough; None for others."""
    own, steps = flow.alignments[i], flow.steps[i]
    if own.kind == "refused":
        return "lags are not known, so nothing can be said about time (see the note)"
    if not (flow.norms[i] > 0).any() and below(flow, i).any():
        return "the gradient that reaches this layer is too small to be measured: see the note"
    at = own.at[own.at >= 0]
    if own.kind == "sequence" and steps > 1 and len(at) and (at == (steps - 1 if own.ahead else 0)).all():
        # Every loss depends on the first step of the layer's run: there is no earlier one.
        return _local(f"{counted(steps - 1, 'step')} {'ahead' if own.ahead else 'back'}")
    return None


def _local(where: str) -> str:
    return f"the gradient does not pass from step to step: only the state {where} receives any"


def _verdict(
    curve: Array, kind: str, growth: float, half_life: float, horizon: float, fraction: float, reverse: bool
) -> str:
    known = np.flatnonzero(np.isfinite(curve) & (curve > 0))
    if not len(known):
        return "no gradient reaches this layer"
    back, rate = "ahead" if reverse else "back", f"{growth_words(growth)} per step {'ahead' if reverse else 'back'}"
    start, last = int(known[0]), int(np.flatnonzero(np.isfinite(curve))[-1])
    left = curve[last] / curve[start]
    if kind == "vanishing" and math.isnan(growth):  # one lag has a norm, the others are below the range
        return f"the gradient vanishes: from {counted(horizon, 'step')} {back} on it is too small to be measured"
    if np.isfinite(curve).sum() == 1:
        return f"only lag {start} was measured: nothing can be said about time"
    if kind == "local":
        return _local("of the same step" if start == 0 else f"{counted(start, 'step')} {back}")
    if kind in ("exploding", "growing"):
        verb, doubling = "explodes" if kind == "exploding" else "grows", math.log(2) / math.log(growth)
        return (
            f"the gradient {verb}: {rate}, doubling every {doubling:.3g} steps; "
            f"{counted(last, 'step')} {back} it is {_number(left)} times its first value"
        )
    if kind == "steady":
        steady = "falls at first, then is steady" if left < 0.5 else "is steady"
        return f"the gradient {steady}: {counted(last, 'step')} {back} it is {_ratio(left)} of its first value"
    halves = f"halving every {half_life:.3g} steps" if np.isfinite(half_life) else "but it rises again at larger lags"
    if np.isfinite(horizon):
        # The rate of the whole curve may hide a steep beginning: at that rate half as many decades would be lost.
        steep = "steeply at first, then " if growth**horizon > fraction**0.5 else ""
        return (
            f"the gradient vanishes: {steep}{rate}, {halves}; "
            f"under {_ratio(fraction)} of it is left {counted(horizon, 'step')} {back}"
        )
    return f"the gradient fades: {rate}, {halves}; {counted(last, 'step')} {back} {_ratio(left)} of it is left"


def _number(value: float) -> str:
    return "—" if math.isnan(value) else "0" if value == 0 else f"{value:.3g}"


def _ratio(value: float) -> str:
    if math.isnan(value):
        return "—"
    if value == 0:
        return "0"
    return f"{100 * value:.3g} %" if 1e-4 <= value < 10 else f"×{value:.2g}"
