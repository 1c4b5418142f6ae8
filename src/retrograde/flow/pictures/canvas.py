"""What every picture shares: axes to draw on, the colours, the floor of a log scale."""

from __future__ import annotations

import importlib
import textwrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008): told apart with every common kind of colour blindness.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLES = ["-", "--", "-.", ":"]


def axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.2)) -> Axes:
    """The axes given, or new ones on a figure of their own (not registered with pyplot's windows)."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    _, new = plt.subplots(figsize=size, layout="constrained")
    return new


def floor(values: NDArray[np.float64], decades: float = 16) -> tuple[float, float]:
    """Bottom and top of a log scale: the smallest positive value, but not more than ``decades`` under the largest."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return 1e-16, 1.0
    top = float(positive.max())
    return max(float(positive.min()), top * 10**-decades, 5e-324), top


def beside(ax: Axes, side: Literal["right", "bottom"], size: str, pad: float, *, share_x: bool = False) -> Axes:
    """A second panel, cut off the space of ``ax``: it works on axes given, whatever figure they live in."""
    axes_grid: Any = importlib.import_module("mpl_toolkits.axes_grid1")  # it carries no types
    divider: Any = axes_grid.make_axes_locatable(ax)
    panel: Axes = divider.append_axes(side, size=size, pad=pad, **({"sharex": ax} if share_x else {}))
    return panel


def title(ax: Axes, finding: str) -> None:
    """What the picture shows, in a sentence above it; wrapped where it would run over the edge."""
    figure = ax.get_figure()
    inches = ax.get_position().width * (
        figure.get_figwidth() if figure is not None and hasattr(figure, "get_figwidth") else 6.4
    )
    ax.set_title(textwrap.fill(finding, max(24, int(inches * 12.5))), loc="left", fontsize=10)


def grid(ax: Axes) -> None:
    """Faint lines behind the data."""
    ax.grid(True, which="major", alpha=0.25, linewidth=0.5)
    ax.set_axisbelow(True)
