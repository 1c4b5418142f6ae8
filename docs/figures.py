"""The figures of the pages, in English and Chinese, from the networks of their snippets: ``python docs/figures.py``."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib import font_manager

import retrograde as rg

HOME = Path(__file__).parent
sys.path.insert(0, str(HOME.parent / "tests" / "docs"))
from pages import printed, snippets  # noqa: E402

GRADIENT, CURED, NEED = "#D55E00", "#0072B2", "0.35"
for path in font_manager.findSystemFonts():  # matplotlib's own list of fonts may be older than the font
    if "NotoSansCJK-Regular" in path:
        font_manager.fontManager.addfont(path)
        plt.rcParams["font.family"] = ["DejaVu Sans", font_manager.FontProperties(fname=path).get_name()]
WORDS = {
    "lag": ("lag (steps back)", "间隔（往回的步数）"),
    "share": ("gradient left, % of lag 0", "剩余梯度，占间隔 0 的百分比"),
    "rnn": ("tanh RNN, PyTorch's start", "tanh RNN，PyTorch 默认初始化"),
    "gru": ("GRU with chrono initialization", "GRU，chrono 初始化"),
    "need": ("need", "需求（need）"),
    "signal": ("what the data asks for", "数据要求记住的"),
}


def names_of(page: str) -> dict[str, Any]:
    """What the snippets of a page define."""
    names: dict[str, Any] = {"__name__": "__page__"}
    for snippet in snippets((HOME / page).read_text(encoding="utf-8")):
        if snippet.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                printed(snippet, names, page)
    return names


def reach(
    axes: plt.Axes, language: int, networks: dict[str, torch.nn.Module], names: dict[str, Any], need: int
) -> None:
    """Draw the share of the gradient by lag of some networks, and how far back the data asks."""
    for (word, network), color in zip(networks.items(), (GRADIENT, CURED), strict=True):
        torch.manual_seed(0)
        x, target = names["draw"](64)
        flow = rg.gradient_flow(network, x, loss=lambda output, target=target: names["loss"](output, target))
        curve = flow.by_lag()[0]
        axes.semilogy(100 * curve / curve[0], color=color, linewidth=2, label=WORDS[word][language])
    axes.axhline(1, color="0.7", linewidth=0.8)
    axes.text(0.2, 1.15, "1 %", color="0.4", fontsize=9)
    axes.axvline(need, color=NEED, linestyle=":", label=WORDS["need"][language])
    axes.set(xlabel=WORDS["lag"][language], ylabel=WORDS["share"][language], ylim=(1e-6, 300))
    axes.figure.legend(frameon=False, loc="outside upper center", ncols=3)


def draw_tour(language: int) -> plt.Figure:
    """The network of the tour before and after the prescription."""
    names = TOUR
    torch.manual_seed(0)
    networks = {"rnn": names["Network"](), "gru": names["Network"]()}
    networks["gru"].layer = rg.nn.GRU(4, 32)
    rg.nn.initialize(networks["gru"], chrono=30, recurrent="orthogonal")
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    reach(axes, language, networks, names, need=30)
    return figure


def draw_need(language: int) -> plt.Figure:
    """Need and reach in the page for networks that do not learn."""
    names = HOWTO
    torch.manual_seed(0)
    networks = {"rnn": names["Network"](), "gru": names["Network"]()}
    networks["gru"].layer = rg.nn.GRU(3, 24)
    rg.nn.initialize(networks["gru"], chrono=39, recurrent="orthogonal")
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    reach(axes, language, networks, names, need=39)
    signal = rg.flow.need_of(networks["rnn"], [names["draw"](64) for _ in range(4)], names["loss"]).layers[0]
    twin = axes.twinx()
    width = signal.last - signal.first + 1
    twin.bar(signal.first, signal.consistency, width, align="edge", color="#009E73", alpha=0.35)
    twin.set_ylim(0, 2 * signal.consistency.max())
    twin.set_ylabel(WORDS["signal"][language], color="#009E73")
    twin.set_yticks([])
    return figure


def main() -> None:
    (HOME / "figures").mkdir(exist_ok=True)
    for name, draw in (("tour", draw_tour), ("need-and-reach", draw_need)):
        for language, ending in enumerate(("", ".zh-CN")):
            figure = draw(language)
            figure.savefig(HOME / "figures" / f"{name}{ending}.png", dpi=110)
            plt.close(figure)


if __name__ == "__main__":
    torch.set_num_threads(1)
    TOUR, HOWTO = names_of("tour.md"), names_of("not-learning.md")
    main()
