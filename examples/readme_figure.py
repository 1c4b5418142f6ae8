"""The figure of docs/flow.md, from the run folders that ``make demo`` leaves: ``python examples/readme_figure.py``."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import retrograde as rg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("docs/gradient-through-time.png"))
    arguments = parser.parse_args()

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13.5, 4.2), layout="constrained")
    for axes, cell, name in ((left, "rnn", "tanh RNN"), (middle, "lstm", "LSTM")):
        rg.GradientFlow.load(arguments.runs / cell / "flow" / "trained").plot_heatmap(axes)
        axes.set_title("", loc="left")  # its own title states the finding; here the two are compared
        axes.set_title(f"{name}, trained")
    for cell, name, colour in (("rnn", "tanh RNN", "#D55E00"), ("lstm", "LSTM", "#0072B2")):
        for which, style in (("trained", "-"), ("untrained", ":")):
            curve = rg.GradientFlow.load(arguments.runs / cell / "flow" / which).by_lag()[0]
            right.semilogy(100 * curve / curve[0], style, color=colour, label=f"{name}, {which}")
    right.axhline(1, color="0.6", linewidth=0.8)
    right.set(ylim=(1e-4, 150), xlabel="lag t − k", ylabel="gradient left, % of lag 0", title="How far back it reaches")
    right.legend(frameon=False)
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
