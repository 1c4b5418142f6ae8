"""The large products of a layer by the engine's packed product and by torch's BLAS, taking turns in one process.

For each shape of the grid, with rows = T B: the input projection X W_ihᵀ, ∂E/∂x = G W_ih and ∂E/∂W = Gᵀ X on their own,
with all packing; and the projection as it is done in a layer's forward pass (B = 8), which is what the layer takes less
the same layer with one input. This is what the choice between the two rests on: the engine multiplies with its own.

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
BATCH = 8


def seconds(run: Callable[..., object], *arguments: Tensor, times: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(times):
        run(*arguments)
    return (time.perf_counter() - start) / times


def alone(a: Tensor, b: Tensor, rounds: int) -> list[tuple[float, float]]:
    """Seconds of the engine's product and of torch's, by round."""
    both = (rg.kernels.matmul, torch.mm)
    times = max(1, round(0.03 / max(seconds(multiply, a, b) for multiply in both)))
    return [(seconds(both[0], a, b, times=times), seconds(both[1], a, b, times=times)) for _ in range(rounds)]


def in_layer(cell: str, x: Tensor, rounds: int) -> list[tuple[float, float]]:
    """Seconds of the projection of `x` (T, B, H) inside a layer's forward pass and of torch's, by round."""
    hidden = x.shape[-1]
    layer, narrow = (getattr(rg.nn, cell)(inputs, hidden) for inputs in (hidden, 1))
    rows, one = x.view(-1, hidden), x[..., :1].contiguous()
    weight, bias = layer.weight_ih_l0.t(), layer.bias_ih_l0
    times = max(1, round(0.03 / max(seconds(layer, x), seconds(narrow, one))))
    found = []
    for _ in range(rounds):
        inside = seconds(layer, x, times=times) - seconds(narrow, one, times=times)
        found.append((inside, seconds(torch.addmm, bias, rows, weight, times=times)))
    return found


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
    print(f"{'rows':>6} {'H':>5} {'cell':5} {'product':18} {'ours':>6} {'torch':>6}   torch's time / ours (of medians)")
    ratios: dict[str, list[float]] = {"alone": [], "in a layer": []}
    for hidden in options.hidden:
        for rows in options.rows:
            for cell, gates in GATES.items():
                width = gates * hidden
                operations = 2.0 * rows * hidden * width
                if operations > LARGEST:
                    continue
                x, g, w_ih = torch.randn(rows, hidden), torch.randn(rows, width), torch.randn(width, hidden)
                g_transposed = g.t().contiguous()  # so that neither of the two has to turn it
                taken = {
                    "X W_ih^T": alone(x, w_ih.t(), options.rounds),
                    "G W_ih": alone(g, w_ih, options.rounds),
                    "G^T X": alone(g_transposed, x, options.rounds),
                    "X W_ih^T, in layer": in_layer(
                        cell, x[: rows // BATCH * BATCH].view(-1, BATCH, hidden), options.rounds
                    ),
                }
                for name, pairs in taken.items():
                    ours, torchs = (statistics.median(column) for column in zip(*pairs, strict=True))
                    line = f"{rows:6} {hidden:5} {cell:5} {name:18}"
                    if ours <= 0:  # a difference of two times
                        print(line, "too short to tell", flush=True)
                        continue
                    ratios["in a layer" if "layer" in name else "alone"].append(torchs / ours)
                    shares = f"{operations / ours / peak:6.0%} {operations / torchs / peak:6.0%}"
                    print(line, f"{shares}   {torchs / ours:.2f}", flush=True)
    for where, found in ratios.items():
        if found:
            mean, worst, best = math.exp(statistics.fmean(map(math.log, found))), min(found), max(found)
            print(f"{len(found)} products {where}: geometric mean {mean:.2f}, worst {worst:.2f}, best {best:.2f}")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
