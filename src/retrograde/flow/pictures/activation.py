"""The activation and its derivative, with the network's own pre-activations under them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..activation import pre_activations
from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..activation import Saturation
    from ..result import GradientFlow

_WHERE = {"rnn": "h", "gru": "candidate n", "lstm": "candidate g"}


def plot_activation(flow: GradientFlow, ax: Axes | None = None, layer: str | int = 0, threshold: float = 0.1) -> Axes:
    """Draw f and f′ over the range in use, and below them a histogram of the arguments f was given."""
    i = flow.layer(layer)
    label = flow.layers[i]
    saturation = flow.saturation(label, threshold)
    values = pre_activations(flow._run(label))
    values = values[np.isfinite(values)]
    relu = saturation.nonlinearity == "relu"
    ax = canvas.axes(ax, (6.4, 4.8))
    canvas.title(ax, _finding(label, saturation))
    panel = canvas.beside(ax, "bottom", 0.55, 0.08, share_x=True)

    # Symmetric, wide enough for the bend of f, and for all but a thousandth of the arguments.
    reach = max(2.5, float(np.quantile(np.abs(values), 0.999)) if len(values) else 0.0) * 1.05
    x = np.linspace(-reach, reach, 801)
    f = np.maximum(x, 0) if relu else np.tanh(x)
    slope = np.where(x > 0, 1.0, 0.0) if relu else 1 - np.tanh(x) ** 2
    ax.plot(x, f, color=canvas.COLOURS[0], linewidth=1.8, label=saturation.nonlinearity)
    ax.plot(x, slope, "--", color=canvas.COLOURS[1], linewidth=1.8, label="its derivative f′")
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.legend(frameon=False, loc="upper left", fontsize=9)
    ax.set_ylabel("f,  f′")
    if relu:
        ax.set_ylim(-0.15, min(reach, 3.0))
    else:
        ax.set_ylim(-1.1, 1.25)

    edge = 0.0 if relu else float(np.arctanh(np.sqrt(1 - threshold)))  # tanh′ = 1 − tanh² = threshold
    flat = [(-reach, 0.0)] if relu else [(-reach, -edge), (edge, reach)]
    for part in (ax, panel):
        for start, stop in flat:
            if start < stop:
                part.axvspan(start, stop, color="grey", alpha=0.15, linewidth=0)
    outside = float((np.abs(values) > reach).mean()) if len(values) else 0.0
    panel.hist(
        values,
        bins=list(np.linspace(-reach, reach, 82)),
        weights=np.full(len(values), 100 / max(len(values), 1)),
        color=canvas.COLOURS[2],
    )
    panel.set_xlim(-reach, reach)
    panel.set_ylabel("% of values")
    panel.set_xlabel(
        f"pre-activation of {_WHERE[flow.cells[i]]}" + (f";  {100 * outside:.2g} % farther out" if outside else "")
    )
    ax.tick_params(labelbottom=False)
    canvas.grid(ax)
    canvas.grid(panel)
    return ax


def _finding(label: str, saturation: Saturation) -> str:
    if saturation.nonlinearity == "relu":
        flat = float(saturation.saturated_by_unit.mean())
        return (
            f"{label}: ReLU shut {100 * flat:.3g} % of the time, {100 * saturation.dead:.3g} % of units dead; "
            f"mean f′ {saturation.derivative:.2f}"
        )
    return (
        f"{label}: {100 * saturation.saturated:.3g} % saturated (f′ < {saturation.threshold:g}, grey); "
        f"mean f′ {saturation.derivative:.2f}"
    )
