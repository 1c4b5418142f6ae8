"""One layer at the shapes of forecasting tools: ours and `torch.nn`'s, taking turns; microseconds and ratios.

    python -m benchmarks.small_layers [--threads 1 --rounds 60 --cell LSTM --json FILE]

A batch of 32 series, one number a step, gradients of all parameters but not of the input: what darts and neuralforecast
ask of a layer. With one thread the time is that of its processor, which other processes disturb less.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

import retrograde as rg
from retrograde.bench.machine import limit_threads
from retrograde.bench.timing import spread

SHAPES = ((32, 60, 1, 64), (32, 96, 1, 64), (32, 36, 1, 64), (32, 24, 1, 25), (32, 12, 1, 25))  # B, T, I, H
CALLS = 5  # of a turn


def clock(run: Callable[[], object], now: Callable[[], float]) -> float:
    """Microseconds of one call."""
    began = now()
    for _ in range(CALLS):
        run()
    return (now() - began) / CALLS * 1e6


def ways(layer: torch.nn.RNNBase, x: torch.Tensor, grad: torch.Tensor) -> dict[str, Callable[[], object]]:
    """A training step, and a forecast."""

    def train() -> None:
        layer.zero_grad()
        layer(x)[0].backward(grad)

    def predict() -> None:
        with torch.no_grad():
            layer(x)

    return {"train": train, "predict": predict}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", choices=("RNN", "GRU", "LSTM"), nargs="*", default=["RNN", "GRU", "LSTM"])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    threads, _ = limit_threads(asked.threads)
    now = time.thread_time if threads == 1 else time.perf_counter
    figures = []
    for kind in asked.cell:
        for B, T, inputs, H in SHAPES:
            theirs, x, grad = (
                getattr(torch.nn, kind)(inputs, H, batch_first=True),
                torch.randn(B, T, inputs),
                torch.randn(B, T, H),
            )
            ours = getattr(rg.nn, kind)(inputs, H, batch_first=True)
            ours.load_state_dict(theirs.state_dict())
            for name, run in ways(ours, x, grad).items():
                other = ways(theirs, x, grad)[name]
                times = [(clock(run, now), clock(other, now)) for _ in range(asked.rounds + 1)][1:]
                own, torchs = (spread(list(column)).median for column in zip(*times, strict=True))
                ratio = spread([b / a for a, b in times])
                print(
                    f"{kind:<4} B={B} T={T:<3} I={inputs} H={H} {name:<8}{threads} threads: {own:7.0f} us, "
                    f"torch.nn {torchs:7.0f} us: {ratio.median:.2f}x [{ratio.low:.2f} {ratio.high:.2f}]",
                    flush=True,
                )
                figures.append(
                    {
                        "cell": kind,
                        "shape": [B, T, inputs, H],
                        "task": name,
                        "threads": threads,
                        "us": own,
                        "torch_us": torchs,
                        "ratio": [ratio.low, ratio.median, ratio.high],
                    }
                )
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
