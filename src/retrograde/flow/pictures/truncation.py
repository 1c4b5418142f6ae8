"""What truncated BPTT would give, for every length at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..contributions import Truncation
    from ..result import GradientFlow


def plot_truncation(
    flow: GradientFlow, ax: Axes | None = None, parameter: str | None = None, fraction: float = 0.99
) -> Axes:
    """Draw norm and cosine of the truncated gradient against its length L; the shortest L that will do is marked."""
    ax = canvas.axes(ax)
    found = flow.truncation(parameter)
    what = parameter or ""
    if not np.isfinite(found.norm).all():
        ax.text(0.5, 0.5, "the gradient is zero", transform=ax.transAxes, ha="center", va="center")
        ax.set_axis_off()
        canvas.title(ax, f"Truncated BPTT{what and f' of {what}'}: there is no gradient to lose")
        return ax
    shortest = found.shortest(fraction)
    series = {
        "norm  ‖g_L‖ / ‖g‖": found.norm,
        "cosine of the angle to g": np.cos(np.radians(found.angle)),
        "share kept  ⟨g_L, g⟩ / ‖g‖²": found.share,
    }
    for (label, values), colour, style in zip(series.items(), canvas.COLOURS, ("-", "--", "-."), strict=False):
        ax.plot(found.length, values, style, color=colour, label=label, linewidth=1.8)
    ax.axhspan(fraction, 2 - fraction, color="grey", alpha=0.25, linewidth=0)
    ax.axvline(shortest, color="black", linewidth=0.9, linestyle=":")
    ax.plot(shortest, found.share[shortest - 1], "o", color="black", markersize=5)
    right = shortest > len(found.length) ** 0.6
    ax.annotate(
        f"L = {shortest}",
        (shortest, 0.04),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if right else 5, 0),
        textcoords="offset points",
        ha="right" if right else "left",
    )
    if len(found.length) > 20:
        canvas.log_ticks(ax)
    else:
        canvas.whole_numbers(ax)
    ax.set_xlabel("length L of truncated BPTT  (steps)")
    ax.set_ylabel("beside the whole gradient g")
    canvas.grid(ax)
    ax.legend(frameon=False, loc="best", fontsize=9)
    canvas.title(ax, _finding(found, shortest, fraction, what))
    return ax


def _finding(found: Truncation, shortest: int, fraction: float, what: str) -> str:
    longest = int(found.length[-1])
    share = f"{100 * fraction:.3g} % of the gradient" + (f" of {what}" if what else "")
    if shortest == longest > 1:
        return f"Truncated BPTT must go back all {longest} steps to keep {share}"
    i = shortest - 1
    steps = f"{shortest} of {longest} steps keep{'s' * (shortest == 1)}"
    return f"{steps} {share} (norm ×{found.norm[i]:.3g}, {found.angle[i]:.2g}° off)"
