"""Every pair (t, k) of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..curves import below
from ..summary import growth_words, summarise
from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..result import GradientFlow

_DECADES = 12.0


def plot_heatmap(flow: GradientFlow, ax: Axes | None = None, layer: str | int = 0) -> Axes:
    """Draw ‖∂E_t/∂s_k‖ as colours on a log scale; pairs without a path, exactly zero, or below the range stay blank."""
    from matplotlib.colors import LogNorm

    i = flow.layer(layer)
    ax = canvas.axes(ax, (5.6, 4.6))
    values = flow.norms[i, :, : flow.steps[i]]
    if values.ndim == 3:
        values = values.mean(-1) if flow.reduce == "none" else values[..., values.shape[-1] // 2]
    bottom, top = canvas.floor(values, _DECADES)
    cut = bool(((values > 0) & (values < bottom)).any())
    shown = np.ma.masked_where(~(values > 0), values)
    picture = ax.imshow(
        shown,
        norm=LogNorm(bottom, top if top > bottom else bottom * 10),
        cmap="cividis",
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, flow.steps[i] - 0.5, len(flow.targets) - 0.5, -0.5),
    )
    bar = ax.figure.colorbar(picture, ax=ax, extend="min" if cut else "neither")
    bar.set_label("‖∂E_t/∂s_k‖")
    if flow.final:  # one row: the loss of the sequence
        ax.set_yticks([])
    elif len(flow.targets) <= 12 or (np.diff(flow.targets) != 1).any():
        ticks = np.unique(np.linspace(0, len(flow.targets) - 1, min(len(flow.targets), 9)).astype(int))
        ax.set_yticks(ticks, [str(flow.targets[j]) for j in ticks])
    canvas.whole_numbers(ax)
    ax.set_xlabel("k: the state that is asked about")
    ax.set_ylabel("t: the loss that asks" if not flow.final else "the loss of the sequence")
    canvas.title(ax, _finding(flow, i))
    return ax


def _finding(flow: GradientFlow, i: int) -> str:
    summary = summarise(flow)
    growth = summary.growth_per_step[i]
    if summary.kinds[i] == "none":
        small = bool(below(flow, i).any())
        return f"{flow.layers[i]}: " + (
            "its gradient is too small to be measured" if small else "no gradient reaches it"
        )
    if summary.kinds[i] == "unknown":
        return f"{flow.layers[i]}: lags are not known"
    if summary.kinds[i] == "vanishing" and not np.isfinite(growth):
        return f"{flow.layers[i]}: the gradient is too small to be measured from {int(summary.horizon[i])} steps on"
    if summary.kinds[i] == "local" or not np.isfinite(growth):
        return f"{flow.layers[i]}: the gradient passes no step"
    verb = {"vanishing": "shrinks", "steady": "holds,"}.get(summary.kinds[i], "grows")
    return f"{flow.layers[i]}: gradient {verb} {growth_words(growth)} a step {'ahead' if flow.reverse[i] else 'back'}"
