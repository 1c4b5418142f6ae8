"""How long one step of a stream takes from Python: `layer.stream()`, `layer.step` and torch.nn's layer on one step.

    python -m benchmarks.streams

Prints microseconds: the median of 200 rounds of 200 steps, in turn, and the smallest round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

import retrograde as rg

ROUNDS, STEPS = 200, 200


def ways(kind: str, inputs: int, units: int) -> dict[str, Callable[[torch.Tensor], None]]:
    """A function of one input for each way to take a step."""
    layer, twin = getattr(rg.nn, kind)(inputs, units), getattr(torch.nn, kind)(inputs, units)
    stream, states = layer.stream(), {"step": None, "torch.nn": None}

    def step(x: torch.Tensor) -> None:
        _, states["step"] = layer.step(x[None], states["step"])

    def theirs(x: torch.Tensor) -> None:
        _, states["torch.nn"] = twin(x[None], states["torch.nn"])

    return {"stream": stream, "step": step, "torch.nn": theirs}


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{'layer':14}{'way':10}{'median µs':>10}{'smallest':>10}")
    for kind in ("RNN", "GRU", "LSTM"):
        for size in (16, 64, 256):
            x = list(torch.randn(STEPS, size))
            functions, times = ways(kind, size, size), dict[str, list[float]]()
            with torch.no_grad():
                for _ in range(ROUNDS):
                    for name, function in functions.items():
                        began = time.perf_counter()
                        for x_t in x:
                            function(x_t)
                        times.setdefault(name, []).append((time.perf_counter() - began) / STEPS * 1e6)
            for name, found in times.items():
                print(f"{kind}-{size:<10}{name:10}{statistics.median(found):10.1f}{min(found):10.1f}")


if __name__ == "__main__":
    main()
