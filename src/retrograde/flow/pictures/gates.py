"""How the gates of a GRU or LSTM stand, and how long its units remember."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import FlowError
from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..activation import Gate
    from ..result import GradientFlow

_NAMES = {
    "lstm": {"i": "input", "f": "forget", "o": "output"},
    "gru": {"r": "reset", "z": "update"},
}


def plot_gates(flow: GradientFlow, ax: Axes | None = None, layer: str | int = 0) -> Axes:
    """Draw every unit's mean of each gate; beside it how long the units remember, −1/mean(log) of the gate that keeps.

    A dot is a unit, the black line the mean of all; the percentages in grey are the shares of values under 0.1 (shut)
    and above 0.9 (open).
    """
    i = flow.layer(layer)
    label, kind = flow.layers[i], flow.cells[i]
    if kind not in _NAMES:
        if kind == "custom":
            flow.gates(label)  # says that they are not known
        raise FlowError(f"Layer {label} is a vanilla RNN: it has no gates; look at plot_activation.")
    ax = canvas.axes(ax, (7.6, 4.2))
    gates = flow.gates(label)
    keeper = next(name for name, gate in gates.items() if gate.time_constant is not None)
    constants = gates[keeper].time_constant
    assert constants is not None
    canvas.title(ax, _finding(label, keeper, gates[keeper], constants, flow.steps[i]))
    panel = canvas.beside(ax, "right", 0.75, 0.4)
    _strips(ax, gates, kind)
    _time_constants(panel, constants, keeper, flow.steps[i])
    return ax


def _strips(ax: Axes, gates: dict[str, Gate], kind: str) -> None:
    for start, stop in ((0, 0.1), (0.9, 1)):
        ax.axvspan(start, stop, color="grey", alpha=0.15, linewidth=0)
    # Everything about a gate stands in its own row, inside the axes: nothing to collide with a neighbouring picture.
    for row, ((name, gate), colour) in enumerate(zip(gates.items(), canvas.COLOURS, strict=False)):
        units = np.sort(gate.mean_by_unit)
        # Units spread over the height of the row in rising order: no two hide each other.
        height = row + np.linspace(0.38, -0.18, len(units))
        ax.plot(units, height, "o", color=colour, markersize=3, alpha=0.7, markeredgewidth=0)
        ax.plot([gate.mean] * 2, [row - 0.22, row + 0.42], color="black", linewidth=1.5)
        for x, share in ((0.01, gate.closed), (0.99, gate.open)):
            ax.text(x, row - 0.36, f"{100 * share:.0f} %", ha="left" if x < 0.5 else "right", va="center", fontsize=8)
        ax.text(0.5, row - 0.36, _NAMES[kind][name], ha="center", va="center", fontsize=9, color=colour)
    ax.set_xlim(0, 1)
    ax.set_ylim(len(gates) - 0.5, -0.5)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_yticks(range(len(gates)), list(gates))
    ax.set_xlabel("mean of a unit", fontsize=9)
    ax.grid(True, axis="x", alpha=0.25, linewidth=0.5)


def _time_constants(ax: Axes, constants: NDArray[np.float64], keeper: str, steps: int) -> None:
    from matplotlib.ticker import MaxNLocator

    known = constants[np.isfinite(constants) & (constants > 0)]
    ax.set_xlabel(f"steps to 1/e  (by {keeper})", fontsize=9)
    ax.set_ylabel("units", fontsize=9)
    if not len(known):
        return
    low, high = float(known.min()), float(known.max())
    if high < 4 * low:  # a few units alike are not to be drawn as if they differed
        low, high = np.sqrt(low * high) / 2, np.sqrt(low * high) * 2
    ax.hist(known, bins=list(np.geomspace(low * 0.999, high * 1.001, 16)), color=canvas.COLOURS[2])
    canvas.log_ticks(ax)
    if low <= steps * 2 and high >= steps / 4:
        ax.axvline(steps, color="black", linewidth=0.9, linestyle=":")
        ax.annotate(
            "T", (steps, 1), (-3, -3), ("data", "axes fraction"), "offset points", ha="right", va="top", fontsize=9
        )
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    canvas.grid(ax)


def _finding(label: str, keeper: str, gate: Gate, constants: NDArray[np.float64], steps: int) -> str:
    middle, longest = float(np.median(constants)), float(constants.max())
    long = f"{longest:.3g}" if np.isfinite(longest) else "endlessly many"
    return (
        f"{label}: units remember {middle:.2g} steps (median), {long} at most; "
        f"T = {steps}, mean {keeper} {gate.mean:.2f}"
    )
