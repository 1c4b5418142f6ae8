"""The part of every lag in a parameter's gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..result import GradientFlow

_REST = 0.002


def plot_shares(
    flow: GradientFlow,
    ax: Axes | None = None,
    parameter: str | None = None,
    gate: str | None = None,
    fraction: float = 0.9,
) -> Axes:
    """Draw the signed shares as bars and their running sum, which ends at 1, as steps."""
    ax = canvas.axes(ax)
    name = parameter or flow.weight()
    found = flow.contributions(name, gate)
    share, lags = found.share, found.lags
    assert lags is not None
    what = name if gate is None else f"{name}, gate {gate}"
    if not np.isfinite(share).all():
        ax.text(0.5, 0.5, "the gradient is zero", transform=ax.transAxes, ha="center", va="center")
        ax.set_axis_off()
        canvas.title(ax, f"{what}: no gradient reaches it")
        return ax
    total = np.cumsum(share)
    # Lags whose shares, taken without their signs, come to next to nothing would be an empty stretch of paper.
    rest = np.abs(share)[::-1].cumsum()[::-1]
    shown = max(int((rest > _REST).sum()), 5)
    ahead = min(int((np.abs(share).cumsum() <= _REST).sum()), int((lags < 0).sum()), shown - 1)
    left_out = float(rest[shown] if shown < len(lags) else 0.0) + float(np.abs(share[:ahead]).sum())
    x, y = lags[ahead:shown], share[ahead:shown]
    width = 0.85 if shown < 80 else 1.0
    forward, against = canvas.COLOURS[0], canvas.COLOURS[1]
    ax.bar(x[y >= 0], y[y >= 0], width, color=forward, label="share of the lag")
    if (y < 0).any():
        ax.bar(x[y < 0], y[y < 0], width, color=against, hatch="///" if shown < 80 else None, label="against the whole")
    ax.plot(x, total[ahead:shown], color="black", linewidth=1.2, drawstyle="steps-mid", label="sum up to the lag")
    ax.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    ax.axhline(0, color="grey", linewidth=0.8)
    drawn = f";  lags not drawn hold {_percent(left_out)} in all" if left_out else ""
    ax.set_xlabel("lag  t − k  (steps back)" + drawn)
    ax.set_ylabel("signed share  ⟨g_lag, g⟩ / ‖g‖²")
    ax.set_xlim(x[0] - 0.7, x[-1] + 0.7)
    canvas.whole_numbers(ax)
    canvas.grid(ax)
    ax.legend(frameon=False, loc="best", fontsize=9)
    canvas.title(ax, _finding(what, share, total, lags, fraction))
    return ax


def _finding(what: str, share: np.ndarray, total: np.ndarray, lags: np.ndarray, fraction: float) -> str:
    start, stop = _narrowest(total, fraction)
    first, last = int(lags[start]), int(lags[stop])
    where = (f"lag {first}" if first == last else f"lags {first} to {last}").replace("-", "−")
    sentence = f"{what}: {_percent(fraction)} of the gradient is from {where}"
    against = -float(share[share < 0].sum())
    return sentence + (f"; {_percent(against)} pulls the other way" if against > 0.01 else "")


def _narrowest(total: np.ndarray, fraction: float) -> tuple[int, int]:
    """The shortest run of neighbouring lags whose shares come to ``fraction``: from, to (the nearest of several)."""
    before = np.concatenate([[0.0], total])
    # For each start the first end that is far enough; with signed shares the sums need not rise.
    best = (0, len(total) - 1)
    for start in range(len(total)):
        enough = np.flatnonzero(before[start + 1 :] - before[start] >= fraction - 1e-9)
        if len(enough) and enough[0] < best[1] - best[0]:
            best = (start, start + int(enough[0]))
    return best


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %" if value < 1 else f"{100 * value:.0f} %"
