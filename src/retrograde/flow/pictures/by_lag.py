"""The gradient against the lag, a line a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..result import GradientFlow


def plot_by_lag(flow: GradientFlow, ax: Axes | None = None, fraction: float = 0.01) -> Axes:
    """Draw ``by_lag`` on a log scale, with the horizon of each layer marked."""
    ax = canvas.axes(ax)
    curves = flow.by_lag()
    horizons = flow.horizon(fraction)
    bottom, top = canvas.floor(curves, 20)
    for i, label in enumerate(flow.layers):
        colour = canvas.COLOURS[i % len(canvas.COLOURS)]
        style = canvas.STYLES[i // len(canvas.COLOURS) % len(canvas.STYLES)]
        curve = curves[i] if curves.ndim == 2 else flow._one_curve()[i]
        lags = np.arange(len(curve))
        # Zero has no place on a log scale: the line ends there instead of running along a made-up floor.
        shown = np.where((curve > 0) & (curve >= bottom), curve, np.nan)
        ax.plot(lags, shown, style, color=colour, label=label, linewidth=1.8)
        if curves.ndim == 3 and flow.reduce != "none":
            ax.fill_between(lags, curves[i, :, 0], curves[i, :, -1], color=colour, alpha=0.2, linewidth=0)
        if np.isfinite(horizons[i]):
            at = int(horizons[i])
            ax.axvline(at, color=colour, linewidth=0.8, linestyle=":")
            if shown[at] > 0:
                ax.plot(at, shown[at], "o", color=colour, markersize=4)
    ax.set_yscale("log")
    if top > 0:
        ax.set_ylim(bottom / 2, top * 2)
    canvas.whole_numbers(ax)
    some = any(flow.reverse) and not all(flow.reverse)
    ax.set_xlabel("lag  (steps back; ahead in a reverse layer)" if some else _lag_words(flow.reverse[0]))
    ax.set_ylabel("‖∂E_t/∂s_k‖, mean over t")
    if len(flow.layers) > 1:
        ax.legend(frameon=False)
    canvas.title(ax, _finding(flow, horizons, fraction))
    canvas.grid(ax)
    return ax


def _lag_words(reverse: bool) -> str:
    return "lag  k − t  (steps ahead)" if reverse else "lag  t − k  (steps back)"


def _finding(flow: GradientFlow, horizons: np.ndarray[tuple[int], np.dtype[np.float64]], fraction: float) -> str:
    left = f"{100 * fraction:.2g} % of the gradient is left"
    if len(flow.layers) == 1:
        h, steps = horizons[0], flow.steps[0]
        return f"{left} after {int(h)} steps" if np.isfinite(h) else f"More than {left} after all {steps} steps"
    reached = [f"{label} {int(h)}" for label, h in zip(flow.layers, horizons, strict=True) if np.isfinite(h)]
    never = [label for label, h in zip(flow.layers, horizons, strict=True) if not np.isfinite(h)]
    shown = ", ".join(reached[:4]) + (f" and {len(reached) - 4} more" if len(reached) > 4 else "")
    if not reached:
        return f"More than {left} in every layer after all {max(flow.steps)} steps"
    return f"Steps until {left}: {shown}" + (f"; beyond {max(flow.steps)}: {', '.join(never[:3])}" if never else "")
