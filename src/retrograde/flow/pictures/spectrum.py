"""How every direction of the state grows or dies: Lyapunov exponents, singular values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import FlowError
from .. import jacobians
from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..result import GradientFlow

Array = NDArray[np.float64]
_DECADES = 40.0


def plot_spectrum(
    flow: GradientFlow,
    ax: Axes | None = None,
    layer: str | int = 0,
    what: Literal["lyapunov", "singular"] = "lyapunov",
    burn_in: int = 0,
) -> Axes:
    """Draw a layer's spectrum, falling: mean over the sequences as points, from least to most as a band."""
    if what not in ("lyapunov", "singular"):
        raise FlowError(f"what is {what!r}; a spectrum is of 'lyapunov' exponents or of 'singular' values.")
    ax = canvas.axes(ax)
    label = flow.layers[flow.layer(layer)]
    if what == "lyapunov":
        _lyapunov(flow, ax, label, burn_in)
    else:
        _singular(flow, ax, label)
    canvas.grid(ax)
    return ax


def _lyapunov(flow: GradientFlow, ax: Axes, label: str, burn_in: int) -> None:
    each = flow.lyapunov_exponents(label, burn_in=burn_in, per_sequence=True)
    mean = each.mean(0)
    _points(ax, each, mean)
    ax.axhline(0, color="grey", linewidth=0.9)
    ax.set_xlabel(_directions(mean))
    ax.set_ylabel("Lyapunov exponent  (ln of growth a step)")
    if flow.cells[flow.layer(label)] == "rnn":
        bound = flow.bounds(label).contraction
        ax.margins(y=0.16)
        if bound > 0:
            ax.axhline(math.log(bound), color=canvas.COLOURS[1], linewidth=1.2, linestyle="--")
            ax.annotate(
                f"bound  ln(‖W‖₂ · max f′) = {math.log(bound):.2g}",
                (1, math.log(bound)),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 3 if bound > 1 else -3),
                textcoords="offset points",
                ha="right",
                va="bottom" if bound > 1 else "top",
                color=canvas.COLOURS[1],
                fontsize=9,
            )
    canvas.title(ax, _lyapunov_finding(label, mean))


def _lyapunov_finding(label: str, mean: Array) -> str:
    if not np.isfinite(mean[0]):
        return f"{label}: every direction dies exactly"
    grow = int((mean > 0).sum())
    first = math.exp(mean[0])
    if not grow:
        return (
            f"{label}: all {len(mean)} directions shrink, the slowest ×{first:.3g} a step"
            if mean[0] < 0
            else f"{label}: no direction grows; the leading one holds its size"
        )
    return (
        f"{label}: {grow} of {len(mean)} directions grow, the fastest ×{first:.3g} a step; "
        f"Lyapunov dimension {jacobians.lyapunov_dimension(mean):.3g}"
    )


def _singular(flow: GradientFlow, ax: Axes, label: str) -> None:
    steps = flow.steps[flow.layer(label)]
    # From the state after the first step to the last.
    each = flow.singular_values(layer=label, log=True) / math.log(10)
    mean = each.mean(0)
    alive = mean[np.isfinite(mean)]
    ax.axhline(0, color="grey", linewidth=0.9)
    low = float(alive.min()) if len(alive) else -1.0
    high = max(float(alive.max()) if len(alive) else 0.0, 0.0)
    cut = low < high - _DECADES
    _points(ax, each, np.where(mean < high - _DECADES, -np.inf, mean))
    ax.set_xlabel(_directions(mean, f"{int((mean < high - _DECADES).sum())} under the edge" if cut else ""))
    ax.set_ylabel("singular value of ∂s_last/∂s_first  (log₁₀)")
    if not len(alive):
        canvas.title(ax, f"{label}: nothing of the first state is left after {steps - 1} steps")
        return
    near = int((mean > mean[0] - 1).sum())
    canvas.title(
        ax,
        f"{label}: over {steps - 1} steps the largest singular value is {_power(float(mean[0]))}; "
        f"{near} of {len(mean)} directions {'comes' if near == 1 else 'come'} within a tenth of it",
    )


def _points(ax: Axes, each: Array, mean: Array) -> None:
    index = np.arange(1, len(mean) + 1)
    alive = np.isfinite(mean)
    with np.errstate(invalid="ignore"):
        ax.fill_between(
            index[alive], each.min(0)[alive], each.max(0)[alive], color=canvas.COLOURS[0], alpha=0.2, linewidth=0
        )
    ax.plot(index[alive], mean[alive], "o-", color=canvas.COLOURS[0], markersize=3, linewidth=1.0)
    ax.set_xlim(0.5 - len(mean) / 50, len(mean) + 0.5 + len(mean) / 50)
    canvas.whole_numbers(ax)


def _directions(mean: Array, more: str = "") -> str:
    dead = int((~np.isfinite(mean)).sum())
    notes = [note for note in (f"{dead} die exactly (−∞)" if dead else "", more) if note]
    return "direction, the longest-lived first" + (f";  {', '.join(notes)}" if notes else "")


def _power(log10: float) -> str:
    return f"{10**log10:.2g}" if abs(log10) < 300 else f"10^{log10:.0f}"
