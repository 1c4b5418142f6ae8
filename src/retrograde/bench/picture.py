"""A picture of the measurements: how many times faster, over the hidden size.

Tests: tests/bench/test_bench.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from ..cells import BY_NAME
from .result import Benchmark

_NAMES = {cell.name: f"{cell.title} (tanh)" if cell.keeper is None else cell.title for cell in BY_NAME.values()}


def draw(benchmark: Benchmark, path: Path) -> None:
    """Save a picture of `benchmark` to `path`: a column per cell, a row per task and peer, a line per batch size.

    Points lie at the geometric mean over the numbers of steps and layers; the bar spans them.
    """
    rows = [(task, peer) for task in ("train", "forward") for peer in _peers(benchmark)]
    rows = [row for row in rows if _cells(benchmark, *row)]
    cells = [cell for cell in _NAMES if any(cell in _cells(benchmark, *row) for row in rows)]
    if not rows:
        return
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.6 * len(cells) + 0.8, 2.7 * len(rows) + 0.8), layout="constrained")
        axes = figure.subplots(len(rows), len(cells), squeeze=False, sharex=True, sharey="row")
        sizes = sorted({m.point.hidden_size for m in benchmark.timed})
        batches = sorted({m.point.batch_size for m in benchmark.timed})
        shades = matplotlib.colormaps["viridis"].resampled(len(batches) + 1)
        for i, (task, peer) in enumerate(rows):
            for j, cell in enumerate(cells):
                ax = axes[i][j]
                ax.axhline(1, color="0.6", linewidth=0.8, zorder=0)
                for k, batch in enumerate(batches):
                    series = _series(benchmark, cell, task, peer, batch)
                    if series:
                        x, low, mean, high = zip(*series, strict=True)
                        down = [max(0.0, m - least) for m, least in zip(mean, low, strict=True)]
                        up = [max(0.0, most - m) for m, most in zip(mean, high, strict=True)]
                        ax.errorbar(
                            x,
                            mean,
                            [down, up],
                            marker="o",
                            markersize=3.5,
                            linewidth=1.2,
                            elinewidth=0.8,
                            color=shades(k),
                            label=f"B = {batch}",
                        )
                ax.set_xscale("log", base=2)
                ax.set_yscale("log")
                ax.set_xticks(sizes, [str(size) for size in sizes])
                ticks = [t for t in (0.25, 0.5, 1, 2, 5, 10, 20, 50) if ax.get_ylim()[0] <= t <= ax.get_ylim()[1]]
                ax.set_yticks(ticks, [f"{t:g}x" for t in ticks])
                ax.minorticks_off()
                if i == 0:
                    ax.set_title(_NAMES[cell])
                if i == len(rows) - 1:
                    ax.set_xlabel("hidden size")
            doing = "training step" if task == "train" else "forward pass"
            axes[i][0].set_ylabel(f"{doing}: time of\n{_peer_name(peer)} / ours")
        axes[0][-1].legend(frameon=False)
        where = benchmark.environment
        figure.suptitle(
            f"retrograde and its peers: {where['threads']} threads, {where['processor']}, torch {where['torch']}"
            + (f", JAX {where['jax']}" if where["jax"] else ""),
            fontsize=9,
        )
        figure.savefig(path, dpi=150)


def _peer_name(peer: str) -> str:
    return {"torch": "torch.nn", "jax": "JAX"}.get(peer, peer)


def _peers(benchmark: Benchmark) -> list[str]:
    return list(dict.fromkeys(peer for m in benchmark.timed for peer in m.ratios))


def _cells(benchmark: Benchmark, task: str, peer: str) -> set[str]:
    return {m.point.cell for m in benchmark.timed if m.point.task == task and peer in m.ratios}


def _series(benchmark: Benchmark, cell: str, task: str, peer: str, batch: int) -> list[tuple[int, float, float, float]]:
    """(hidden_size, least, geometric mean, most) of the ratios, over steps and layers."""
    from statistics import geometric_mean

    ratios: dict[int, list[float]] = {}
    for m in benchmark.timed:
        p = m.point
        if (p.cell, p.task, p.batch_size) == (cell, task, batch) and peer in m.ratios:
            ratios.setdefault(p.hidden_size, []).append(m.ratios[peer].median)
    return [(size, min(r), geometric_mean(r), max(r)) for size, r in sorted(ratios.items())]
