"""The large products of a layer by the engine's packed product and by torch's BLAS, taking turns in one process.

For each shape of the grid, with rows = T B: the input projection X W_ihᵀ, ∂E/∂x = G W_ih and ∂E/∂W = Gᵀ X. This is what
the choice between the two rests on: the engine multiplies with its own product, which here is the faster one.

    python benchmarks/products.py [--threads 2 --rounds 7 --hidden 64 256 512 1024 --rows 400 6400 25600]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import retrograde as rg
from retrograde.bench.machine import fma_peak, processor

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
LARGEST = 3e11  # floating-point operations: about a second and a half each


def seconds(multiply: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        multiply(a, b)
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256, 512, 1024])
    parser.add_argument("--rows", type=int, nargs="+", default=[400, 6400, 25600])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    peak = fma_peak(options.threads, seconds=0.3) or float("nan")
    print(f"{processor()}, {options.threads} threads, float32, {peak / 1e9:.0f} GFLOP/s at the peak")
    print(f"{'rows':>6} {'H':>5} {'cell':5} {'product':12} {'ours':>6} {'torch':>6}   torch's time / ours")
    ratios: list[float] = []
    for hidden in options.hidden:
        for rows in options.rows:
            for cell, gates in GATES.items():
                width = gates * hidden
                operations = 2.0 * rows * hidden * width
                if operations > LARGEST:
                    continue
                x, g, w_ih = torch.randn(rows, hidden), torch.randn(rows, width), torch.randn(width, hidden)
                g_transposed = g.t().contiguous()  # so that neither of the two has to turn it
                for name, a, b in (
                    ("X W_ih^T", x, w_ih.t()),
                    ("G W_ih", g, w_ih),
                    ("G^T X", g_transposed, x),
                ):
                    both = (rg.kernels.matmul, torch.mm)
                    times = max(1, round(0.03 / max(seconds(multiply, a, b, 1) for multiply in both)))
                    taken = [tuple(seconds(m, a, b, times) for m in both) for _ in range(options.rounds)]
                    mine, other = (statistics.median(column) for column in zip(*taken, strict=True))
                    found = sorted(t / o for o, t in taken)
                    ratios.append(statistics.median(found))
                    print(
                        f"{rows:6} {hidden:5} {cell:5} {name:12} {operations / mine / peak:6.0%} "
                        f"{operations / other / peak:6.0%}   {ratios[-1]:.2f} ({found[0]:.2f} to {found[-1]:.2f})",
                        flush=True,
                    )
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"{len(ratios)} products: geometric mean {mean:.2f}, worst {min(ratios):.2f}, best {max(ratios):.2f}")


if __name__ == "__main__":
    main()
