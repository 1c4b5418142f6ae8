"""What every picture shares: axes to draw on, the colours, the floor of a log scale."""

from __future__ import annotations

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
    """The axes given, or new ones on a figure of their own of pyplot, which a notebook shows."""
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


def beside(ax: Axes, side: Literal["right", "bottom"], size: float, gap: float, *, share_x: bool = False) -> Axes:
    """A second panel, cut off the space of ``ax``, so that it works on axes given.

    ``size`` and ``gap`` are relative to what ``ax`` keeps.
    """
    figure, spec = ax.figure, ax.get_subplotspec()
    if figure.get_figure(root=True).get_layout_engine() is not None:
        gap /= 4  # it keeps labels clear of each other by itself
    shared: Any = {"sharex": ax} if share_x else {}
    down = side == "bottom"
    if spec is not None:
        shape = (2, 1) if down else (1, 2)
        ratios: Any = (
            {"height_ratios": [1, size], "hspace": gap} if down else {"width_ratios": [1, size], "wspace": gap}
        )
        both = spec.subgridspec(*shape, **ratios)
        ax.set_subplotspec(both[0])
        panel: Axes = figure.add_subplot(both[1], **shared)
        return panel
    # Axes put down by hand: share out their rectangle.
    x, y, width, height = ax.get_position().bounds
    kept = 1 / (1 + size + gap)
    if down:
        ax.set_position((x, y + height * (1 - kept), width, height * kept))
        return figure.add_axes((x, y, width, height * kept * size), **shared)
    ax.set_position((x, y, width * kept, height))
    return figure.add_axes((x + width * kept * (1 + gap), y, width * kept * size, height), **shared)


def log_ticks(ax: Axes) -> None:
    """A logarithmic x axis of plain numbers, 1, 2, 5, 10, …, for quantities counted in steps."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    ax.set_xscale("log")
    low, high = ax.get_xlim()
    # Beyond two decades 2 and 5 would crowd the axis.
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if high < 200 * low:
        ax.xaxis.set_minor_locator(NullLocator())


def whole_numbers(ax: Axes) -> None:
    """Ticks at whole numbers only, on a linear x axis that counts steps, lags or directions."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def title(ax: Axes, finding: str) -> None:
    """What the picture shows, in a sentence above it; wrapped where it would run over the edge."""
    figure = ax.get_figure()
    inches = ax.get_position().width * (
        figure.get_figwidth() if figure is not None and hasattr(figure, "get_figwidth") else 6.4
    )
    ax.set_title(textwrap.fill(finding, max(24, int(inches * 16.5))), loc="left", fontsize=10)


def grid(ax: Axes) -> None:
    """Faint lines behind the data."""
    ax.grid(True, which="major", alpha=0.25, linewidth=0.5)
    ax.set_axisbelow(True)
