"""Plots of a measured flow, on matplotlib axes given or new, and its form in a notebook.

Every title states the finding. The functions are the ``plot_...`` methods of ``GradientFlow``. matplotlib is imported
where it is used: it takes long, and only plots need it.

Tests: `tests/flow/test_plots.py`, `tests/flow/test_pictures.py`.
"""

from __future__ import annotations

import base64
import functools
import io
import re
import textwrap
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ..words import counted
from .curves import below, mean_curves
from .summary import growth_words, summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .contributions import Truncation
    from .result import GradientFlow

Array = NDArray[np.float64]
# Okabe and Ito (2008): distinct with every common kind of color blindness.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_STYLES = ["-", "--", "-.", ":"]
_HEATMAP_DECADES = 12.0
_EAST_ASIAN = [
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "Microsoft YaHei", "SimHei", "PingFang SC"),
    *("Hiragino Sans GB", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Arial Unicode MS", "Yu Gothic", "Malgun Gothic"),
]
_EAST_ASIAN_FILE = re.compile(r"(?i)(NotoSansCJK|SourceHanSans)\S*Regular|msyh|simhei|PingFang|Hiragino|wqy-|malgun\.")
_SMALL_SHARE = 0.002  # lags at either end whose shares add up to less are not drawn

# --- What all plots share ---------------------------------------------------------------------------------------------


def axes_or_new(ax: Axes | None, size: tuple[float, float] = (6.4, 4.2)) -> Axes:
    """Return the axes given, or new ones on a pyplot figure of their own, which a notebook shows."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    _, new = plt.subplots(figsize=size, layout="constrained")
    return new


def add_panel(ax: Axes, side: Literal["right", "bottom"], size: float, gap: float, *, share_x: bool = False) -> Axes:
    """Split a second panel off ``ax``, so that it works on any axes; sizes are relative to what ``ax`` keeps."""
    figure, spec = ax.figure, ax.get_subplotspec()
    if figure.get_layout_engine() is not None:
        gap /= 4  # the layout engine already keeps labels apart
    shared: Any = {"sharex": ax} if share_x else {}
    down = side == "bottom"
    if spec is not None:
        ratios: Any = (
            {"height_ratios": [1, size], "hspace": gap} if down else {"width_ratios": [1, size], "wspace": gap}
        )
        both = spec.subgridspec(*((2, 1) if down else (1, 2)), **ratios)
        ax.set_subplotspec(both[0])
        panel: Axes = figure.add_subplot(both[1], **shared)
        return panel
    x, y, width, height = ax.get_position().bounds  # axes placed by hand: divide their rectangle
    kept = 1 / (1 + size + gap)
    if down:
        ax.set_position((x, y + height * (1 - kept), width, height * kept))
        return figure.add_axes((x, y, width, height * kept * size), **shared)
    ax.set_position((x, y, width * kept, height))
    return figure.add_axes((x + width * kept * (1 + gap), y, width * kept * size, height), **shared)


def log_ticks(ax: Axes) -> None:
    """Use a logarithmic x axis with plain numbers 1, 2, 5, 10, …, for quantities counted in steps."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    ax.set_xscale("log")
    low, high = ax.get_xlim()
    narrow = high < 200 * low  # over more than two decades, 2 and 5 would crowd the axis
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if narrow:
        ax.xaxis.set_minor_locator(NullLocator())


def integer_ticks(ax: Axes) -> None:
    """Put ticks of a linear x axis at integers only."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def finish(ax: Axes, finding: str, *, grid: bool = True) -> Axes:
    """Set the title, wrapped to the width of the axes, and draw faint grid lines behind the data."""
    figure = ax.get_figure()
    inches = ax.get_position().width * (
        figure.get_figwidth() if figure is not None and hasattr(figure, "get_figwidth") else 6.4
    )
    ax.set_title(textwrap.fill(finding, max(24, int(inches * 16.5))), loc="left", fontsize=10)
    if grid:
        ax.grid(True, which="major", alpha=0.25, linewidth=0.5)
        ax.set_axisbelow(True)
    return with_every_sign(ax)


def with_every_sign(ax: Axes) -> Axes:
    """Let texts with Chinese, Japanese or Korean, such as names of layers, use an installed font that has them."""
    from matplotlib.text import Text

    for text in ax.findobj(Text):
        if isinstance(text, Text) and any(sign >= "\u2e80" for sign in text.get_text()):
            text.set_fontfamily([*text.get_fontfamily(), *_east_asian_fonts()])
    return ax


@functools.cache
def _east_asian_fonts() -> list[str]:
    """Names of installed fonts; the system is asked as well, as matplotlib's own list may be older than a font."""
    from matplotlib.font_manager import FontProperties, findSystemFonts, fontManager

    known = {font.name for font in fontManager.ttflist}
    if not known & set(_EAST_ASIAN):
        files = sorted(path for path in findSystemFonts() if _EAST_ASIAN_FILE.search(path))
        for path in files[:1]:
            fontManager.addfont(path)
            return [FontProperties(fname=path).get_name()]
    return [name for name in _EAST_ASIAN if name in known]


def _log_limits(values: Array, decades: float) -> tuple[float, float]:
    """Bottom and top of a log scale: from the smallest positive value, but at most ``decades`` below the largest."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return 1e-16, 1.0
    top = float(positive.max())
    return max(float(positive.min()), top * 10**-decades, 5e-324), top


def _empty(ax: Axes, title: str) -> Axes:
    ax.text(0.5, 0.5, "the gradient is zero", transform=ax.transAxes, ha="center", va="center")
    ax.set_axis_off()
    return finish(ax, title, grid=False)


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %" if value < 1 else f"{100 * value:.0f} %"


# --- Norms by lag -----------------------------------------------------------------------------------------------------


def plot_by_lag(flow: GradientFlow, ax: Axes | None = None, fraction: float = 0.01) -> Axes:
    """Plot ‖∂E_t/∂s_{t−lag}‖ against the lag on a log scale, one line per layer; dotted lines mark the horizons."""
    ax = axes_or_new(ax)
    curves, means = flow.by_lag(), mean_curves(flow)
    horizons = flow.horizon(fraction)
    bottom, top = _log_limits(curves, 20)
    for i, label in enumerate(flow.layers):
        color = COLORS[i % len(COLORS)]
        curve = means[i].norms
        lags = np.arange(len(curve))
        # Zero has no place on a log scale: the line ends there instead of following an invented floor.
        shown = np.where((curve > 0) & (curve >= bottom), curve, np.nan)
        ax.plot(lags, shown, _STYLES[i // len(COLORS) % len(_STYLES)], color=color, label=label, linewidth=1.8)
        if curves.ndim == 3 and flow.reduce != "none":
            ax.fill_between(lags, curves[i, :, 0], curves[i, :, -1], color=color, alpha=0.2, linewidth=0)
        if np.isfinite(horizons[i]):
            at = int(horizons[i])
            ax.axvline(at, color=color, linewidth=0.8, linestyle=":")
            if shown[at] > 0:
                ax.plot(at, shown[at], "o", color=color, markersize=4)
    ax.set_yscale("log")
    if top > 0:
        ax.set_ylim(bottom / 2, top * 2)
    integer_ticks(ax)
    if any(flow.reverse) and not all(flow.reverse):
        ax.set_xlabel("lag  (steps back; steps ahead in a reverse layer)")
    else:
        ax.set_xlabel("lag  k − t  (steps ahead)" if flow.reverse[0] else "lag  t − k  (steps back)")
    ax.set_ylabel("‖∂E_t/∂s_k‖, mean over t")
    if len(flow.layers) > 1:
        ax.legend(frameon=False)
    return finish(ax, _by_lag_finding(flow, horizons, fraction))


def _by_lag_finding(flow: GradientFlow, horizons: Array, fraction: float) -> str:
    left = f"{100 * fraction:.2g} % of the gradient is left"
    if len(flow.layers) == 1:
        h, steps = horizons[0], flow.steps[0]
        return f"{left} after {counted(h, 'step')}" if np.isfinite(h) else f"More than {left} after all {steps} steps"
    reached = [f"{label} {int(h)}" for label, h in zip(flow.layers, horizons, strict=True) if np.isfinite(h)]
    never = [label for label, h in zip(flow.layers, horizons, strict=True) if not np.isfinite(h)]
    shown = ", ".join(reached[:4]) + (f" and {len(reached) - 4} more" if len(reached) > 4 else "")
    if not reached:
        return f"More than {left} in every layer after all {max(flow.steps)} steps"
    return f"Steps until {left}: {shown}" + (f"; beyond {max(flow.steps)}: {', '.join(never[:3])}" if never else "")


# --- Every pair -------------------------------------------------------------------------------------------------------


def plot_heatmap(flow: GradientFlow, ax: Axes | None = None, layer: str | int = 0) -> Axes:
    """Plot ‖∂E_t/∂s_k‖ of one layer as colors on a log scale: rows t, columns k.

    Pairs without a path, with a norm of exactly zero, or below the range of the type are blank.
    """
    from matplotlib.colors import LogNorm

    i = flow.layer_index(layer)
    ax = axes_or_new(ax, (5.6, 4.6))
    values = flow.norms[i, :, : flow.steps[i]]
    if values.ndim == 3:
        values = values.mean(-1) if flow.reduce == "none" else values[..., values.shape[-1] // 2]
    bottom, top = _log_limits(values, _HEATMAP_DECADES)
    cut = bool(((values > 0) & (values < bottom)).any())
    image = ax.imshow(
        np.ma.masked_where(~(values > 0), values),
        norm=LogNorm(bottom, top if top > bottom else bottom * 10),
        cmap="cividis",
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, flow.steps[i] - 0.5, len(flow.targets) - 0.5, -0.5),
    )
    bar = ax.figure.colorbar(image, ax=ax, extend="min" if cut else "neither")
    bar.set_label("‖∂E_t/∂s_k‖")
    if flow.final:  # one row: the loss of the sequence
        ax.set_yticks([])
    elif len(flow.targets) <= 12 or (np.diff(flow.targets) != 1).any():
        ticks = np.unique(np.linspace(0, len(flow.targets) - 1, min(len(flow.targets), 9)).astype(int))
        ax.set_yticks(ticks, [str(flow.targets[j]) for j in ticks])
    integer_ticks(ax)
    ax.set_xlabel("k: step of the state")
    ax.set_ylabel("loss of the sequence" if flow.final else "t: step of the loss")
    return finish(ax, f"{flow.layers[i]}: {_heatmap_finding(flow, i)}", grid=False)


def _heatmap_finding(flow: GradientFlow, i: int) -> str:
    summary = summarize(flow)
    kind, growth = summary.kinds[i], summary.growth_per_step[i]
    if kind == "none":
        return "its gradient is too small to be measured" if below(flow, i).any() else "no gradient reaches it"
    if kind == "unknown":
        return "lags are not known"
    if kind == "vanishing" and not np.isfinite(growth):
        return f"the gradient is too small to be measured from {int(summary.horizon[i])} steps on"
    if kind == "local" or not np.isfinite(growth):
        return "the gradient does not pass from step to step"
    verb = {"vanishing": "shrinks", "steady": "is steady,"}.get(kind, "grows")
    return f"gradient {verb} {growth_words(growth)} per step {'ahead' if flow.reverse[i] else 'back'}"


# --- The gradient of a parameter --------------------------------------------------------------------------------------


def plot_shares(
    flow: GradientFlow,
    ax: Axes | None = None,
    parameter: str | None = None,
    gate: str | None = None,
    fraction: float = 0.9,
) -> Axes:
    """Plot the signed share of every lag in a parameter's gradient as bars, and their running sum, which ends at 1."""
    ax = axes_or_new(ax)
    name = parameter or flow.weight()
    found = flow.contributions(name, gate)
    share, lags = found.share, found.lags
    assert lags is not None
    what = name if gate is None else f"{name}, gate {gate}"
    if not np.isfinite(share).all():
        return _empty(ax, f"{what}: no gradient reaches it")
    total = np.cumsum(share)
    rest = np.abs(share)[::-1].cumsum()[::-1]
    shown = max(int((rest > _SMALL_SHARE).sum()), 5)
    ahead = min(int((np.abs(share).cumsum() <= _SMALL_SHARE).sum()), int((lags < 0).sum()), shown - 1)
    left_out = float(rest[shown] if shown < len(lags) else 0.0) + float(np.abs(share[:ahead]).sum())
    x, y = lags[ahead:shown], share[ahead:shown]
    width, hatch = (0.85, "///") if shown < 80 else (1.0, None)
    ax.bar(x[y >= 0], y[y >= 0], width, color=COLORS[0], label="share of the lag")
    if (y < 0).any():
        ax.bar(x[y < 0], y[y < 0], width, color=COLORS[1], hatch=hatch, label="opposed to the full gradient")
    ax.plot(x, total[ahead:shown], color="black", linewidth=1.2, drawstyle="steps-mid", label="sum up to the lag")
    ax.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.set_xlabel("lag  t − k  (steps back)" + (f";  lags not shown: {_percent(left_out)}" if left_out else ""))
    ax.set_ylabel("signed share  ⟨g_lag, g⟩ / ‖g‖²")
    ax.set_xlim(x[0] - 0.7, x[-1] + 0.7)
    integer_ticks(ax)
    ax.legend(frameon=False, loc="best", fontsize=9)
    first, last = (int(lags[j]) for j in _shortest_interval(total, fraction))
    where = (f"lag {first}" if first == last else f"lags {first} to {last}").replace("-", "−")
    opposed = -float(share[share < 0].sum())
    return finish(
        ax,
        f"{what}: {_percent(fraction)} of the gradient comes from {where}"
        + (f"; {_percent(opposed)} has the opposite sign" if opposed > 0.01 else ""),
    )


def _shortest_interval(total: Array, fraction: float) -> tuple[int, int]:
    """The shortest interval of lags whose shares add up to ``fraction``: first and last (the nearest of several)."""
    before = np.concatenate([[0.0], total])
    # For each start the first end that is far enough; with signed shares the sums need not rise.
    best = (0, len(total) - 1)
    for start in range(len(total)):
        enough = np.flatnonzero(before[start + 1 :] - before[start] >= fraction - 1e-9)
        if len(enough) and enough[0] < best[1] - best[0]:
            best = (start, start + int(enough[0]))
    return best


def plot_truncation(
    flow: GradientFlow, ax: Axes | None = None, parameter: str | None = None, fraction: float = 0.99
) -> Axes:
    """Plot norm and cosine of the truncated gradient against its length L; mark the shortest L that is enough."""
    ax = axes_or_new(ax)
    found = flow.truncation(parameter)
    if not np.isfinite(found.norm).all():
        what = f" of {parameter}" if parameter else ""
        return _empty(ax, f"Truncated BPTT{what}: there is no gradient to lose")
    shortest = found.shortest(fraction)
    series = {
        "norm  ‖g_L‖ / ‖g‖": found.norm,
        "cosine of the angle to g": np.cos(np.radians(found.angle)),
        "share kept  ⟨g_L, g⟩ / ‖g‖²": found.share,
    }
    for (label, values), color, style in zip(series.items(), COLORS, _STYLES, strict=False):
        ax.plot(found.length, values, style, color=color, label=label, linewidth=1.8)
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
    (log_ticks if len(found.length) > 20 else integer_ticks)(ax)
    ax.set_xlabel("length L of truncated BPTT  (steps)")
    ax.set_ylabel("relative to the full gradient g")
    ax.legend(frameon=False, loc="best", fontsize=9)
    return finish(ax, _truncation_finding(found, shortest, fraction, parameter))


def _truncation_finding(found: Truncation, shortest: int, fraction: float, parameter: str | None) -> str:
    longest = int(found.length[-1])
    share = f"{100 * fraction:.3g} % of the gradient" + (f" of {parameter}" if parameter else "")
    if shortest == longest > 1:
        return f"Truncated BPTT must go back all {longest} steps to keep {share}"
    i = shortest - 1
    steps = f"{shortest} of {longest} steps keep{'s' * (shortest == 1)}"
    return f"{steps} {share} (norm ×{found.norm[i]:.3g}, {found.angle[i]:.2g}° off)"


# --- The notebook -----------------------------------------------------------------------------------------------------


def plot_signal(
    flow: GradientFlow, ax: Axes | None = None, layer: str | int = 0, fraction: float = 0.01, **options: Any
) -> Axes:
    """Plot how consistent the gradient of every lag is over sequences (``signal_by_lag``), and how far it reaches."""
    ax = axes_or_new(ax)
    found = flow.signal_by_lag(layer, **options)
    middle, width = (found.first + found.last) / 2, found.last - found.first + 1
    shown = np.nan_to_num(found.consistency.clip(min=0))
    for chosen, color, label in (
        (found.significant, COLORS[0], f"signal (p < {found.alpha:g}, all lags together)"),
        (~found.significant, "0.75", "no signal"),
    ):
        if chosen.any():
            ax.bar(middle[chosen], shown[chosen], width[chosen] * 0.85, color=color, label=label)
    reach = float(np.atleast_1d(flow.horizon(fraction))[flow.layer_index(layer)])
    if np.isfinite(reach):
        ax.axvline(reach, color="black", linewidth=1.2, linestyle="--", label=f"{fraction:.0%} of the gradient is left")
    ax.set_xlabel("lag  t − k  (steps back)")
    ax.set_ylabel("consistency of the gradient over sequences")
    ax.set_ylim(0, max(1.3 * float(shown.max()), 0.05))
    integer_ticks(ax)
    ax.legend(frameon=False, loc="best", fontsize=9)
    if found.need is None:
        return finish(ax, f"{found.layer}: no signal at any lag, in {found.sequences:,} sequences")
    reaches = f"; its gradient reaches {reach:.0f}" if np.isfinite(reach) else ""
    return finish(ax, f"{found.layer}: a signal up to lag {found.need}{reaches}")


def notebook_page(flow: GradientFlow) -> str:
    """Self-contained HTML: verdicts, the plots by lag and by pair, the tables."""
    from matplotlib.figure import Figure

    summary = summarize(flow)
    # A figure of its own, which pyplot does not know: the notebook must not show it a second time.
    lags = any(kind != "unknown" for kind in summary.kinds)
    figure = Figure(figsize=(11 if lags else 5.5, 4.0), layout="constrained")
    panels = figure.subplots(1, 1 + lags, squeeze=False)[0]
    if lags:
        plot_by_lag(flow, panels[0])
    plot_heatmap(flow, panels[-1])
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    image = base64.b64encode(file.getvalue()).decode()
    verdicts = list(zip(summary.layers, summary.verdict, strict=True))
    items = "".join(f"<li><b>{escape(label)}</b>: {escape(words)}</li>" for label, words in verdicts)
    alt = escape("; ".join(f"{label}: {words}" for label, words in verdicts), quote=True)
    console = Console(record=True, file=io.StringIO(), width=10_000)
    console.print(summary.measures(), "", summary.table(ratios=False), sep="\n")
    tables = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
    notes = "".join(f"<p><small>Note: {escape(note)}</small></p>" for note in summary.notes)
    return (
        f"<div><p>{escape(repr(flow))}</p><ul>{items}</ul>"
        f'<img alt="{alt}" src="data:image/png;base64,{image}"/>{tables}{notes}</div>'
    )
