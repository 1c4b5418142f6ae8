"""A measured flow in a few numbers and words: growth per step, half-life, horizon, verdict.

One place computes them, so that the terminal, the notebook and the pictures never disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import curves as of_curves

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from .result import GradientFlow

Array = NDArray[np.float64]

_BLOCKS = "▁▂▃▄▅▆▇█"
# A line fitted through values that are all but rounding would describe the rounding: 30 decades down it stops.
_FIT_DECADES = 30.0
_SPARK_DECADES = 12.0


@dataclass(frozen=True)
class Summary:
    """What became of the gradient on its way through time; every list has one entry per layer.

    Attributes
    ----------
    layers : list of str
        Labels, as in the flow.
    curves
        ‖∂E_t/∂s_{t−lag}‖ by lag `(layers, lags)`, NaN where no pair has that lag.
    growth_per_step
        Factor by which the norm changes per step further away: e to the slope of the line fitted to the logarithm of
        the curve (least squares). Under 1 it falls, above 1 it grows; NaN where fewer than two lags have any.
    half_life
        Steps in which it halves at that rate, ln 2 / −ln(growth); infinite where it does not fall.
    horizon
        First lag at which the norm is under ``fraction`` of its first; NaN where that lies beyond what was measured.
    fraction : float
        The fraction of the horizon.
    kinds : list of str
        The verdict in one word. What counts is by how much the fitted line changes from the first lag that has any
        gradient to the last that was measured, a factor of growth^(number of steps between):

        ``"vanishing"``
            The norm falls under ``fraction`` of its first (there is a horizon), or the line falls by a factor of 2 or
            more.
        ``"exploding"``
            No horizon, and both the line and the largest norm measured grow by 1/``fraction`` (100-fold) or more.
        ``"growing"``
            No horizon, and they grow by less, but by 2 or more: ×1.002 a step over 500 steps is 2.7-fold.
        ``"steady"``
            They change by less than a factor of 2.
        ``"local"``
            One lag alone has a gradient: it passes no step.
        ``"none"``
            No lag has any.
        ``"unknown"``
            Lags are not known.
    verdict : list of str
        The same in a sentence.
    sparkline : list of str
        The curve in one line of blocks, from the nearest lag to the farthest, on a log scale; blank where it is zero.
    notes : list of str
        What a reader must know of the measurement.
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
        """Lags worth a line of a table: the first ones, then 1, 2, 5, 10, …, and the last."""
        known = np.flatnonzero(np.isfinite(self.curves).any(0))
        if len(known) <= rows:
            return [int(lag) for lag in known]
        round_numbers = {m * 10**p for p in range(7) for m in (1, 2, 5)} | {0}
        chosen = sorted({int(known[0]), int(known[-1])} | {int(lag) for lag in known if int(lag) in round_numbers})
        return chosen if len(chosen) <= rows else [chosen[0], *chosen[-rows + 1 :]]

    def rows(self, lags: list[int] | None = None) -> list[tuple[int, list[float], list[float]]]:
        """Lines of the table: the lag, the norm per layer, and its ratio to that layer's first."""
        start = np.array([of_curves.first(curve) for curve in self.curves])
        chosen = self.lags() if lags is None else lags
        with np.errstate(divide="ignore", invalid="ignore"):
            return [(lag, self.curves[:, lag].tolist(), (self.curves[:, lag] / start).tolist()) for lag in chosen]

    def table(self, lags: list[int] | None = None, *, ratios: bool = True) -> Table:
        """By lag: the norm of every layer and, with ``ratios``, what share of the first it is (rich)."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("lag", justify="right")
        for label in self.layers:
            table.add_column(label, justify="right", no_wrap=True)
            if ratios:
                table.add_column("of first", justify="right", style="dim")
        for lag, norms, shares in self.rows(lags):
            cells = []
            for norm, share in zip(norms, shares, strict=True):
                cells += [_number(norm), _ratio(share)] if ratios else [_number(norm)]
            table.add_row(str(lag), *cells)
        return table

    def measures(self, spark: int = 20) -> Table:
        """One line a layer: a sparkline of so many characters, growth per step, half-life, horizon (rich)."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("layer")
        table.add_column("near → far")
        for heading in ("growth/step", "half-life", f"horizon ({self.fraction:.2g})"):
            table.add_column(heading, justify="right")
        for i, label in enumerate(self.layers):
            growth = self.growth_per_step[i]
            table.add_row(
                label,
                sparkline(self.curves[i], spark),
                growth_words(growth),
                half_life_words(self.half_life[i]),
                "—" if self.kinds[i] in ("none", "unknown") else horizon_words(self.horizon[i], self.curves.shape[1]),
            )
        return table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Tables as wide as the terminal, then the verdicts."""
        from rich.text import Text

        free = options.update_width(10**6)

        def fit(parts: list[Table]) -> bool:
            return all(console.measure(part, options=free).maximum <= options.max_width for part in parts)

        tables = [self.table()]
        beside = len(self.layers)
        while not fit(tables) and beside:  # without the shares, then fewer layers side by side
            starts = range(0, len(self.layers), beside)
            tables = [self._part(slice(start, start + beside)).table(ratios=False) for start in starts]
            beside -= 1
        for table in tables:
            yield table
            yield ""
        # The line of a layer has its name, the sparkline, and 49 characters of numbers.
        yield self.measures(max(8, min(32, options.max_width - 49 - max(len(label) for label in self.layers))))
        yield ""
        for label, words in zip(self.layers, self.verdict, strict=True):
            yield Text(f"{label}: {words}")
        for note in self.notes:
            yield Text(f"Note: {' '.join(note.split())}", style="dim")

    def _part(self, part: slice) -> Summary:
        """The summary of some of its layers."""
        own = ("layers", "curves", "growth_per_step", "half_life", "horizon", "kinds", "verdict", "sparkline")
        return replace(self, **{name: getattr(self, name)[part] for name in own})

    def __str__(self) -> str:
        return "\n".join(
            f"{label}  {spark}  {words}"
            for label, spark, words in zip(self.layers, self.sparkline, self.verdict, strict=True)
        )


def summarise(flow: GradientFlow, fraction: float = 0.01, width: int = 20) -> Summary:
    """Growth per step, half-life, horizon and a verdict for every layer of a flow.

    Parameters
    ----------
    flow
        What ``gradient_flow`` gave. Over quantiles the middle one is summarised, over sequences their mean.
    fraction
        Of the norm at the first lag, for the horizon.
    width
        Characters of a sparkline, at most.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> rnn, x = torch.nn.RNN(2, 4), torch.randn(30, 3, 2)
    >>> _ = torch.nn.init.orthogonal_(rnn.weight_hh_l0, gain=0.5)
    >>> flow = rg.gradient_flow(rnn, x, loss=lambda output: output[0].square().sum(-1))
    >>> summarise(flow).kinds
    ['vanishing']
    """
    if all(own.kind == "refused" for own in flow.alignments):
        curves, lost = np.full((len(flow.layers), 1), np.nan), np.zeros((len(flow.layers), 1), dtype=bool)
        horizon = np.full(len(flow.layers), np.nan)
    else:
        curves, lost = of_curves.mean_curves(flow)
        horizon = flow.horizon(fraction)
    growth = np.array([_growth(curve) for curve in curves])
    with np.errstate(divide="ignore", invalid="ignore"):
        half_life = np.where(growth < 1, math.log(2) / -np.log(growth), np.where(growth >= 1, np.inf, np.nan))
    kinds = [
        "unknown" if own.kind == "refused" else _kind(curve, small, g, h, fraction)
        for own, curve, small, g, h in zip(flow.alignments, curves, lost, growth, horizon, strict=True)
    ]
    return Summary(
        layers=list(flow.layers),
        curves=curves,
        growth_per_step=growth,
        half_life=half_life,
        horizon=horizon,
        fraction=fraction,
        kinds=kinds,
        verdict=[
            _unknown(flow, i)
            or _too_small(flow, i)
            or _at_its_beginning(flow, i)
            or _verdict(curves[i], kinds[i], growth[i], half_life[i], horizon[i], fraction, flow.reverse[i])
            for i in range(len(flow.layers))
        ],
        sparkline=[sparkline(curve, width) for curve in curves],
        notes=list(flow.notes),
    )


def sparkline(curve: Array, width: int = 32) -> str:
    """A curve as blocks on a log scale of at most 12 decades; a blank where it is zero or unknown.

    >>> sparkline(np.array([1.0, 0.1, 0.01, 0.0]))
    '█▅▁ '
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
    bottom = max(float(known.min()), top - _SPARK_DECADES)
    # A flat curve is a full bar, not an empty one; less than a tenth of a decade is flat.
    span = max(top - bottom, 0.1)
    return "".join(
        " " if not np.isfinite(v) else _BLOCKS[round(max(0.0, 1 - (top - v) / span) * (len(_BLOCKS) - 1))] for v in logs
    )


def growth_words(growth: float) -> str:
    """A factor per step with the digits that tell it from 1: after many steps the smallest difference counts.

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


def half_life_words(steps: float) -> str:
    """``"3.2 steps"``, or that it does not fall."""
    if math.isnan(steps):
        return "—"
    return "does not fall" if math.isinf(steps) else f"{steps:.3g} steps"


def horizon_words(lag: float, measured: int) -> str:
    """``"14 steps"``, or beyond what was measured."""
    return f"beyond {measured - 1} steps" if math.isnan(lag) else f"{int(lag)} steps"


def _growth(curve: Array) -> float:
    positive = np.isfinite(curve) & (curve > 0)
    if not positive.any():
        return math.nan
    lags = np.flatnonzero(positive & (curve > np.nanmax(curve) * 10**-_FIT_DECADES))
    if len(lags) < 2:
        return math.nan
    return math.exp(float(np.polyfit(lags, np.log(curve[lags]), 1)[0]))


def _kind(curve: Array, lost: NDArray[np.bool_], growth: float, horizon: float, fraction: float) -> str:
    start = of_curves.first_lag(curve)
    known = np.flatnonzero(np.isfinite(curve))
    if start is None:
        return "none"
    if (curve[known] > 0).sum() == 1 and not lost[start:].any():
        return "local"
    if np.isfinite(horizon):
        return "vanishing"
    if math.isnan(growth):
        return "steady"
    # What the fitted line makes of it from the first lag to the last: less than a factor of 2 is no trend.
    change = math.log(growth) * (known[-1] - start)
    if change <= -math.log(2):
        return "vanishing"
    change = min(change, math.log(np.nanmax(curve) / curve[start]))  # nor is it one if no lag was measured up there
    return "steady" if change < math.log(2) else "growing" if change < -math.log(fraction) else "exploding"


def _too_small(flow: GradientFlow, i: int) -> str | None:
    """The verdict on a layer of which everything is below the range."""
    if (flow.norms[i] > 0).any() or not of_curves.below(flow, i).any():
        return None
    return "the gradient that reaches this layer is too small to be measured: see the note"


def _unknown(flow: GradientFlow, i: int) -> str | None:
    """The verdict on a layer whose lags are not known."""
    if flow.alignments[i].kind != "refused":
        return None
    return "lags are not known, so nothing is said of time (see the note)"


def _at_its_beginning(flow: GradientFlow, i: int) -> str | None:
    """The verdict where every loss looks at the first step of the layer's run: nothing lies before it."""
    own, steps = flow.alignments[i], flow.steps[i]
    at = own.at[own.at >= 0]
    if own.kind != "sequence" or steps == 1 or not len(at) or not (at == (steps - 1 if own.ahead else 0)).all():
        return None
    back = "ahead" if own.ahead else "back"
    return f"the gradient passes no step: only the state {steps - 1} steps {back} gets any"


def _verdict(
    curve: Array, kind: str, growth: float, half_life: float, horizon: float, fraction: float, reverse: bool
) -> str:
    known = np.flatnonzero(np.isfinite(curve))
    back = "ahead" if reverse else "back"
    if kind == "none":
        return "no gradient reaches this layer"
    # Before the first lag that has any, the loss does not look: an output cut off, a masked step.
    first, last = of_curves.first_lag(curve), int(known[-1])
    assert first is not None
    left = curve[last] / curve[first]
    if kind == "vanishing" and math.isnan(growth):  # one lag has a norm, the rest are below the range
        return f"the gradient vanishes: from {int(horizon)} steps {back} on it is too small to be measured"
    if len(known) == 1:
        return f"only lag {first} was measured: nothing can be said of time"
    if kind == "local":
        where = "of the same step" if first == 0 else f"{first} steps {back}"
        return f"the gradient passes no step: only the state {where} gets any"
    if kind in ("exploding", "growing"):
        doubling = math.log(2) / math.log(growth)
        verb = "explodes" if kind == "exploding" else "grows"
        return (
            f"the gradient {verb}: {growth_words(growth)} a step {back}, doubling every {doubling:.3g} steps; {last} "
            f"steps {back} it is {_number(left)} times its first"
        )
    if kind == "steady":
        holds = "falls at first, then holds" if left < 0.5 else "holds"
        return f"the gradient {holds}: {last} steps {back} it is {_ratio(left)} of its first"
    halves = f"halving every {half_life:.3g} steps" if np.isfinite(half_life) else "though it rises again farther off"
    if np.isfinite(horizon):
        # The whole curve's rate does not tell of a steep beginning: say so where it alone would get half as far.
        steep = "steeply at first, then " if growth**horizon > fraction**0.5 else ""
        return (
            f"the gradient vanishes: {steep}{growth_words(growth)} a step {back}, {halves}; "
            f"under {_ratio(fraction)} of it is left {int(horizon)} steps {back}"
        )
    return (
        f"the gradient fades: {growth_words(growth)} a step {back}, {halves}; {last} steps {back} {_ratio(left)} of it "
        "is left"
    )


def _number(value: float) -> str:
    return "—" if math.isnan(value) else "0" if value == 0 else f"{value:.3g}"


def _ratio(value: float) -> str:
    if math.isnan(value):
        return "—"
    if value == 0:
        return "0"
    return f"{100 * value:.3g} %" if 1e-4 <= value < 10 else f"×{value:.2g}"
