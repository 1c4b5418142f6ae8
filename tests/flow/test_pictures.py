"""Everything that ``plots.py`` and ``layer_plots.py`` draw: lines, bars, areas, words, axes, as they were recorded."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rich.console import Console

import retrograde as rg
from retrograde.flow.summary import summarize

mpl.use("Agg")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def weights(count: int, scale: float = 1.0) -> torch.Tensor:
    """Numbers that look random and are the same everywhere."""
    return torch.sin(torch.arange(count, dtype=torch.float64).square() * 0.7 + 1) * scale


def measured(kind: str, steps: int = 16, *, scale: float = 0.5, loss: str = "each", **options: Any) -> rg.GradientFlow:
    reduce = options.pop("reduce", "mean")
    layer = getattr(torch.nn, kind)(3, 6, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(weights(parameter.numel(), scale).view_as(parameter))
    batch = 12 if loss == "target" else 4
    x = weights(steps * batch * 3).view(steps, batch, 3)
    losses: dict[str, Callable[[Any], torch.Tensor]] = {
        "each": lambda output: output[0].square().sum(-1),
        "last": lambda output: output[0][-1].square().sum(-1),
        "none": lambda output: output[0].sum(-1) * 0,
        "mixed": lambda output: output[0].mean(0).square().sum(-1),
        "target": lambda output: (output[0][-1, :, 0] * 0.1 - x[max(0, steps - 4), :, 0]).square(),
    }
    return rg.gradient_flow(layer, x, loss=losses[loss], reduce=reduce)


def drawing(ax: Axes) -> list[dict[str, Any]]:
    """All that is in the figure of these axes."""
    figure = ax.figure
    assert isinstance(figure, Figure)
    return [_axes(part) for part in figure.axes]


def _axes(ax: Axes) -> dict[str, Any]:
    return {
        "at": ax.get_position().bounds,
        "title": ax.get_title("left"),
        "x": [ax.get_xlabel(), ax.get_xscale(), ax.get_xlim()],
        "y": [ax.get_ylabel(), ax.get_yscale(), ax.get_ylim()],
        "lines": [[*_style(one), _numbers(one.get_xdata()), _numbers(one.get_ydata())] for one in ax.lines],
        "bars": _numbers([one.get_bbox().bounds for one in ax.patches if hasattr(one, "get_bbox")]),
        "looks": sorted({f"{to_hex(p.get_facecolor(), True)} {p.get_hatch()} {p.get_alpha()}" for p in ax.patches}),
        "areas": [[to_hex(c.get_facecolor()[0], True), c.get_paths()[0].vertices] for c in _filled(ax)],
        "words": [
            [t.get_text(), t.get_position(), t.get_ha(), t.get_va(), t.get_fontsize(), str(t.get_color())]
            for t in ax.texts
        ],
        "images": [[_numbers(np.ma.filled(i.get_array(), np.nan)), i.get_clim(), i.get_extent()] for i in ax.images],
        "legend": [text.get_text() for text in legend.get_texts()] if (legend := ax.get_legend()) else None,
        "fixed": [[t.get_text() for t in axis.get_ticklabels()] for axis in (ax.xaxis, ax.yaxis) if _fixed(axis)],
        "grid": [any(line.get_visible() for line in lines) for lines in (ax.get_xgridlines(), ax.get_ygridlines())],
    }


def _style(line: Any) -> list[Any]:
    return [
        getattr(line, f"get_{one}")()
        for one in ["label", "color", "linestyle", "linewidth", "marker", "markersize", "alpha"]
    ]


def _filled(ax: Axes) -> list[Any]:
    return [one for one in ax.collections if len(one.get_facecolor()) and len(one.get_paths())]


def _fixed(axis: Any) -> bool:
    return isinstance(axis.get_major_locator(), mpl.ticker.FixedLocator)


def _numbers(values: Any) -> Any:
    return np.asarray(values, dtype=float)


PICTURES: dict[str, Callable[[], Axes]] = {
    "lags of two layers": lambda: measured("LSTM", num_layers=2).plot_by_lag(),
    "lags both ways": lambda: measured("GRU", bidirectional=True, num_layers=5).plot_by_lag(),
    "lags ahead": lambda: measured("RNN", scale=0.2).plot_by_lag(fraction=0.5),
    "lags by quantiles": lambda: measured("RNN", scale=1.4, reduce=[0.1, 0.5, 0.9]).plot_by_lag(),
    "pairs": lambda: measured("LSTM", 24).plot_heatmap(),
    "few pairs": lambda: measured("RNN", 12, bidirectional=True).plot_heatmap(layer=1),
    "pairs of one loss": lambda: measured("RNN", loss="last", reduce="none").plot_heatmap(),
    "pairs that shrink by far": lambda: measured("RNN", 40, scale=0.01).plot_heatmap(),
    "pairs without gradient": lambda: measured("RNN", loss="none").plot_heatmap(),
    "pairs of a loss of all": lambda: measured("GRU", bidirectional=True, loss="mixed").plot_heatmap(),
    "pairs that do not pass": lambda: measured("RNN", scale=0.0).plot_heatmap(),
    "shares": lambda: measured("LSTM").plot_shares(),
    "shares of a gate": lambda: measured("LSTM", 100, scale=2.0).plot_shares(parameter="weight_ih_l0", gate="f"),
    "shares ahead": lambda: measured("GRU", 60, num_layers=2, bidirectional=True).plot_shares(fraction=0.5),
    "shares of nothing": lambda: measured("RNN", loss="none").plot_shares(),
    "truncation": lambda: measured("GRU").plot_truncation(),
    "truncation of many steps": lambda: measured("RNN", 300, scale=0.7).plot_truncation(
        parameter="weight_hh_l0", fraction=0.9
    ),
    "truncation at the last": lambda: measured("LSTM", 30, scale=2, loss="last").plot_truncation(fraction=0.9999),
    "exponents": lambda: measured("RNN").plot_spectrum(),
    "exponents, slow": lambda: measured("RNN", scale=0.1).plot_spectrum(burn_in=3),
    "exponents of gates": lambda: measured("LSTM", 30).plot_spectrum(),
    "exponents of nothing": lambda: measured("RNN", scale=0.0).plot_spectrum(),
    "singular values": lambda: measured("GRU").plot_spectrum(what="singular"),
    "singular values by far": lambda: measured("RNN", 60, scale=0.05).plot_spectrum(what="singular"),
    "gates": lambda: measured("LSTM").plot_gates(),
    "gates that are open": lambda: measured("GRU", scale=3.0).plot_gates(),
    "gates, slow": lambda: measured("LSTM", 4, scale=0.01).plot_gates(),
    "activation": lambda: measured("LSTM").plot_activation(),
    "activation, saturated": lambda: measured("RNN", scale=3.0).plot_activation(threshold=0.3),
    "activation of ReLU": lambda: measured("RNN", nonlinearity="relu").plot_activation(),
    "signal": lambda: measured("RNN", loss="target").plot_signal(),
    "signal of gates": lambda: measured("GRU", 10, loss="target").plot_signal(bins=4, fraction=0.5),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_has_in_it_what_was_recorded(name: str, recorded: Callable[..., None]) -> None:
    recorded(drawing(PICTURES[name]()))


@pytest.mark.parametrize("plot", ["heatmap", "gates", "activation"])
def test_panels_fit_into_axes_placed_by_hand(plot: str, recorded: Callable[..., None]) -> None:
    flow, ax = measured("GRU"), Figure().add_axes((0.2, 0.3, 0.7, 0.6))
    getattr(flow, f"plot_{plot}")(ax)
    recorded([one.get_position().bounds for one in ax.figure.axes])  # type: ignore[union-attr]


@pytest.mark.parametrize("scale", [0.0, 0.05, 0.5, 1.0, 3.0])
def test_the_summary_says_what_was_recorded(scale: float, recorded: Callable[..., None]) -> None:
    summaries = [
        summarize(measured(kind, 40, scale=scale, loss=loss, **options), fraction)
        for kind, loss, fraction, options in [
            ("RNN", "each", 0.01, {}),
            ("RNN", "last", 0.1, {"bidirectional": True}),
            ("GRU", "mixed", 0.01, {"bidirectional": True}),
            ("LSTM", "each", 0.5, {"num_layers": 2}),
            ("LSTM", "none", 0.01, {}),
        ]
    ]
    console = Console(file=io.StringIO(), width=90)
    console.print(*summaries)
    numbers = [[one, [one.numbers(0, digits=3), one.lags(8)]] for one in summaries]
    recorded([numbers, console.file.getvalue().splitlines()])  # type: ignore[attr-defined]
