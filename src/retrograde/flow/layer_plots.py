"""Plots of one layer: its spectrum, its gates, its activation; ``plot_...`` methods of ``GradientFlow``.

Tests: `tests/flow/test_plots.py`, `tests/flow/test_pictures.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..cells import BY_NAME, find
from ..errors import FlowError
from .activation import Gate, Saturation, pre_activations
from .jacobians import lyapunov_dimension
from .plots import COLORS, add_panel, axes_or_new, finish, integer_ticks, log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .result import GradientFlow

Array = NDArray[np.float64]
_SPECTRUM_DECADES = 40.0
_GATE_NAMES = {"i": "input", "f": "forget", "o": "output", "r": "reset", "z": "update"}

# --- Spectrum ---------------------------------------------------------------------------------------------------------


def plot_spectrum(
    flow: GradientFlow,
    ax: Axes | None = None,
    layer: str | int = 0,
    what: Literal["lyapunov", "singular"] = "lyapunov",
    burn_in: int = 0,
) -> Axes:
    """Plot a layer's Lyapunov exponents, or the singular values of ∂s_last/∂s_first (``what="singular"``).

    Points are means over the sequences; the band is from the smallest to the largest.
    """
    if what not in ("lyapunov", "singular"):
        raise FlowError(f"what is {what!r}; choose 'lyapunov' (exponents) or 'singular' (values).")
    ax = axes_or_new(ax)
    label = flow.layer(layer)
    ax.axhline(0, color="grey", linewidth=0.9)
    finding = _lyapunov(flow, ax, label, burn_in) if what == "lyapunov" else _singular(flow, ax, label)
    return finish(ax, f"{label}: {finding}")


def _lyapunov(flow: GradientFlow, ax: Axes, label: str, burn_in: int) -> str:
    each = flow.lyapunov_exponents(label, burn_in=burn_in, per_sequence=True)
    mean = each.mean(0)
    _points(ax, each, mean)
    _label_directions(ax, mean)
    ax.set_ylabel("Lyapunov exponent  (log growth per step)")
    cell = BY_NAME.get(flow.cells[flow.layer_index(label)])
    if cell is not None and cell.vanilla:
        bound = flow.bounds(label).contraction
        ax.margins(y=0.16)
        if bound > 0:
            ax.axhline(math.log(bound), color=COLORS[1], linewidth=1.2, linestyle="--")
            ax.annotate(
                f"bound  ln(‖W‖₂ · max f′) = {math.log(bound):.2g}",
                (1, math.log(bound)),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 3 if bound > 1 else -3),
                textcoords="offset points",
                ha="right",
                va="bottom" if bound > 1 else "top",
                color=COLORS[1],
                fontsize=9,
            )
    if not np.isfinite(mean[0]):
        return "every direction becomes exactly zero"
    grow, factor = int((mean > 0).sum()), math.exp(mean[0])
    if grow:
        return (
            f"{grow} of {len(mean)} directions grow, the fastest ×{factor:.3g} per step; "
            f"Lyapunov dimension {lyapunov_dimension(mean):.3g}"
        )
    if mean[0] < 0:
        return f"all {len(mean)} directions shrink, the slowest ×{factor:.3g} per step"
    return "no direction grows; the first keeps its size"


def _singular(flow: GradientFlow, ax: Axes, label: str) -> str:
    steps = flow.steps[flow.layer_index(label)]
    each = flow.singular_values(layer=label, log=True) / math.log(10)  # after the first step to after the last
    mean = each.mean(0)
    alive = mean[np.isfinite(mean)]
    low = max(float(alive.max()) if len(alive) else 0.0, 0.0) - _SPECTRUM_DECADES
    cut = int((alive < low).sum())
    _points(ax, each, np.where(mean < low, -np.inf, mean))
    _label_directions(ax, mean, f"{cut} below the axis" if cut else "")
    ax.set_ylabel("singular value of ∂s_last/∂s_first  (log₁₀)")
    if not len(alive):
        return f"nothing of the first state is left after {steps - 1} steps"
    top, near = float(mean[0]), int((mean > mean[0] - 1).sum())
    largest = f"{10**top:.2g}" if abs(top) < 300 else f"10^{top:.0f}"
    return (
        f"over {steps - 1} steps the largest singular value is {largest}; "
        f"{near} of {len(mean)} directions {'is' if near == 1 else 'are'} within a factor of 10 of it"
    )


def _points(ax: Axes, each: Array, mean: Array) -> None:
    index, alive = np.arange(1, len(mean) + 1), np.isfinite(mean)
    with np.errstate(invalid="ignore"):
        low, high = each.min(0)[alive], each.max(0)[alive]
        ax.fill_between(index[alive], low, high, color=COLORS[0], alpha=0.2, linewidth=0)
    ax.plot(index[alive], mean[alive], "o-", color=COLORS[0], markersize=3, linewidth=1.0)
    ax.set_xlim(0.5 - len(mean) / 50, len(mean) + 0.5 + len(mean) / 50)
    integer_ticks(ax)


def _label_directions(ax: Axes, mean: Array, note: str = "") -> None:
    zero = int((~np.isfinite(mean)).sum())
    notes = ", ".join(words for words in (f"{zero} exactly zero (−∞)" if zero else "", note) if words)
    ax.set_xlabel("direction, largest first" + (f";  {notes}" if notes else ""))


# --- Gates ------------------------------------------------------------------------------------------------------------


def plot_gates(flow: GradientFlow, ax: Axes | None = None, layer: str | int = 0) -> Axes:
    """Plot each unit's mean of every gate, and a histogram of the units' time constants.

    A dot is a unit, the black line the mean of all units; the percentages are the shares of values below 0.1 (closed)
    and above 0.9 (open). The time constant is −1/mean(log) of the gate that keeps the state.
    """
    i = flow.layer_index(layer)
    label = flow.layers[i]
    gates = flow.gates(label)
    if not gates:
        raise FlowError(f"Layer {label} is a vanilla RNN, which has no gates; use plot_activation.")
    ax = axes_or_new(ax, (7.6, 4.2))
    keeper, constants = next((k, g.time_constant) for k, g in gates.items() if g.time_constant is not None)
    median, longest = float(np.median(constants)), float(constants.max())
    most = f"at most {longest:.3g}" if np.isfinite(longest) else "some without end"
    finish(
        ax,
        f"{label}: units remember {median:.2g} steps (median), {most}; "
        f"T = {flow.steps[i]}, mean {keeper} {gates[keeper].mean:.2f}",
        grid=False,
    )
    panel = add_panel(ax, "right", 0.75, 0.4)
    _gate_rows(ax, gates)
    _time_constants(panel, constants, keeper, flow.steps[i])
    return ax


def _gate_rows(ax: Axes, gates: dict[str, Gate]) -> None:
    for start, stop in ((0, 0.1), (0.9, 1)):
        ax.axvspan(start, stop, color="grey", alpha=0.15, linewidth=0)
    # All about a gate is in its own row, inside the axes, so that nothing collides with a neighboring plot.
    for row, ((name, gate), color) in enumerate(zip(gates.items(), COLORS, strict=False)):
        units = np.sort(gate.mean_by_unit)
        # Units spread over the height of the row in rising order: no two cover each other.
        height = row + np.linspace(0.38, -0.18, len(units))
        ax.plot(units, height, "o", color=color, markersize=3, alpha=0.7, markeredgewidth=0)
        ax.plot([gate.mean] * 2, [row - 0.22, row + 0.42], color="black", linewidth=1.5)
        for x, share in ((0.01, gate.closed), (0.99, gate.open)):
            ax.text(x, row - 0.36, f"{100 * share:.0f} %", ha="left" if x < 0.5 else "right", va="center", fontsize=8)
        ax.text(0.5, row - 0.36, _GATE_NAMES.get(name, name), ha="center", va="center", fontsize=9, color=color)
    ax.set_xlim(0, 1)
    ax.set_ylim(len(gates) - 0.5, -0.5)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_yticks(range(len(gates)), list(gates))
    ax.set_xlabel("mean of a unit", fontsize=9)
    ax.grid(True, axis="x", alpha=0.25, linewidth=0.5)


def _time_constants(ax: Axes, constants: Array, keeper: str, steps: int) -> None:
    from matplotlib.ticker import MaxNLocator

    known = constants[np.isfinite(constants) & (constants > 0)]
    ax.set_xlabel(f"time constant in steps  (from {keeper})", fontsize=9)
    ax.set_ylabel("units", fontsize=9)
    if not len(known):
        return
    low, high = float(known.min()), float(known.max())
    if high < 4 * low:  # do not draw nearly equal units as if they differed
        low, high = np.sqrt(low * high) / 2, np.sqrt(low * high) * 2
    ax.hist(known, bins=list(np.geomspace(low * 0.999, high * 1.001, 16)), color=COLORS[2])
    log_ticks(ax)
    if low <= steps * 2 and high >= steps / 4:
        ax.axvline(steps, color="black", linewidth=0.9, linestyle=":")
        ax.annotate(
            "T", (steps, 1), (-3, -3), ("data", "axes fraction"), "offset points", ha="right", va="top", fontsize=9
        )
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    finish(ax, "")


# --- Activation -------------------------------------------------------------------------------------------------------


def plot_activation(flow: GradientFlow, ax: Axes | None = None, layer: str | int = 0, threshold: float = 0.1) -> Axes:
    """Plot the activation f and f′, and below them a histogram of the network's own pre-activations."""
    label = flow.layer(layer)
    saturation = flow.saturation(label, threshold)
    values = pre_activations(flow._run(label))
    values = values[np.isfinite(values)]
    relu = saturation.nonlinearity == "relu"
    ax = axes_or_new(ax, (6.4, 4.8))
    finish(ax, f"{label}: {_activation_finding(saturation)}")
    panel = add_panel(ax, "bottom", 0.55, 0.08, share_x=True)

    # Symmetric, wide enough for the bend of f and for all but a thousandth of the pre-activations.
    reach = max(2.5, float(np.quantile(np.abs(values), 0.999)) if len(values) else 0.0) * 1.05
    x = np.linspace(-reach, reach, 801)
    f = np.maximum(x, 0) if relu else np.tanh(x)
    slope = np.where(x > 0, 1.0, 0.0) if relu else 1 - np.tanh(x) ** 2
    ax.plot(x, f, color=COLORS[0], linewidth=1.8, label=saturation.nonlinearity)
    ax.plot(x, slope, "--", color=COLORS[1], linewidth=1.8, label="its derivative f′")
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.legend(frameon=False, loc="upper left", fontsize=9)
    ax.set_ylabel("f,  f′")
    ax.set_ylim(*((-0.15, min(reach, 3.0)) if relu else (-1.1, 1.25)))

    edge = 0.0 if relu else float(np.arctanh(np.sqrt(1 - threshold)))  # tanh′ = 1 − tanh² = threshold
    for part in (ax, panel):
        for start, stop in [(-reach, 0.0)] if relu else [(-reach, -edge), (edge, reach)]:
            if start < stop:
                part.axvspan(start, stop, facecolor="grey", alpha=0.15)
    weights = np.full(len(values), 100 / max(len(values), 1))
    panel.hist(values, bins=list(np.linspace(-reach, reach, 82)), weights=weights, color=COLORS[2])
    panel.set_xlim(-reach, reach)
    panel.set_ylabel("% of values")
    candidate = find(flow.cells[flow.layer_index(label)]).candidate
    outside = 100 * float((np.abs(values) > reach).mean()) if len(values) else 0.0
    panel.set_xlabel(
        f"pre-activation of {'h' if candidate == 'h' else f'candidate {candidate}'}"
        + (f";  {outside:.2g} % outside the axis" if outside else "")
    )
    ax.tick_params(labelbottom=False)
    finish(panel, "")
    return ax


def _activation_finding(saturation: Saturation) -> str:
    mean = f"mean f′ {saturation.derivative:.2f}"
    if saturation.nonlinearity == "relu":
        zero = float(saturation.saturated_by_unit.mean())
        return f"ReLU is zero {100 * zero:.3g} % of the time, {100 * saturation.dead:.3g} % of units are dead; {mean}"
    return f"{100 * saturation.saturated:.3g} % saturated (f′ < {saturation.threshold:g}, grey); {mean}"
