"""Where a training step's time goes, and what it cannot go under on this machine.

For each shape, side by side in one process: our step; its products alone, taken by torch's BLAS (those over all
T·B rows at once, and the two of each time step, which must wait for one another); and the floor, the operations
at the multiply-add peak. What our step takes beyond its products is gates, activations, packing and memory.

    python benchmarks/floor.py [--cell gru --threads 1 --rounds 7]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from retrograde.bench import Point
from retrograde.bench.machine import fma_peak, limit_threads
from retrograde.bench.peers import peers
from retrograde.bench.timing import spread
from retrograde.cells import BY_GATES, find

SHAPES = [(1, 200, 64), (1, 200, 512), (32, 200, 64), (32, 200, 256), (128, 50, 512), (128, 50, 1024)]


def products(point: Point) -> tuple[Callable[[], object], Callable[[], object]]:
    """The products of a training step: over all rows at once, and step by step."""
    H, T, B = point.hidden_size, point.steps, point.batch_size
    G = len(find(point.cell).gates)
    rows = T * B
    x, delta = torch.randn(rows, H), torch.randn(rows, G * H)
    w, u = torch.randn(G * H, H), torch.randn(G * H, H)
    h, step, narrow = torch.randn(B, H), torch.empty(B, G * H), torch.empty(B, H)
    projected, grad_w, grad_u, grad_x = torch.empty_like(delta), torch.empty_like(w), torch.empty_like(u), x.clone()
    w_t, u_t, delta_t = w.T, u.T, delta.T

    def at_once() -> None:
        torch.mm(x, w_t, out=projected)  # W_ih x_t for all t
        torch.mm(delta_t, x, out=grad_w)  # ∂E/∂W_ih
        torch.mm(delta_t, x, out=grad_u)  # ∂E/∂W_hh
        torch.mm(delta, w, out=grad_x)  # ∂E/∂x

    def in_turn() -> None:
        for _ in range(T):
            torch.mm(h, u_t, out=step)  # W_hh h_{t-1}
        for _ in range(T):
            torch.mm(step, u, out=narrow)  # W_hhᵀ δ_t

    return at_once, in_turn


def clock(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", choices=[cell.name for cell in BY_GATES.values()], default="gru")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    threads, _ = limit_threads(arguments.threads)
    print(f"{arguments.cell} training step, {threads} threads; milliseconds, median of {arguments.rounds} rounds")
    print(f"{'shape':<22}{'ours':>9}{'at once':>9}{'in turn':>9}{'floor':>9}   products at the peak / ours")
    for batch, steps, hidden in SHAPES:
        point = Point(arguments.cell, "train", batch, steps, hidden, 1)
        ours = peers(point, jax=False)[0][0]
        runs = dict(zip(("ours", "at once", "in turn"), (ours.run, *products(point)), strict=True))
        times: dict[str, list[float]] = {name: [] for name in runs}
        peaks = []
        for run in runs.values():
            run()
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                times[name].append(clock(run))
            peaks.append(fma_peak(threads) or float("nan"))
        found = {name: spread(values).median for name, values in times.items()}
        floor = point.operations / spread(peaks).median
        print(
            f"B={batch} T={steps} H={hidden}".ljust(22)
            + "".join(f"{1e3 * found[name]:9.2f}" for name in runs)
            + f"{1e3 * floor:9.2f}   {floor / found['ours']:.0%}"
        )


if __name__ == "__main__":
    main()
