"""The gradient flow of a layer called step by step, over that of the same layer called once: ratios, side by side.

python -m benchmarks.step_loops --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

import retrograde as rg


class Stepped(nn.Module):
    """A layer called with one step at a time, or a loop over its cell."""

    def __init__(self, layer: nn.Module, *, cell: bool) -> None:
        super().__init__()
        self.layer, self.cell = layer, cell

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for x_t in x if self.cell else x.split(1):
            if self.cell:
                state = self.layer(x_t, state)
                outputs.append(state[0] if isinstance(state, tuple) else state)
            else:
                output, state = self.layer(x_t, state)
                outputs.append(output[0])
        return torch.stack(outputs)


def squares(output: Tensor) -> Tensor:
    return output.square().sum(-1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args(arguments)
    for kind in ("RNN", "GRU", "LSTM"):
        for batch, size in ((4, 32), (8, 128)):
            layer, cell = getattr(nn, kind)(32, size), getattr(nn, f"{kind}Cell")(32, size)
            x = torch.randn(asked.steps, batch, 32)
            ways = {
                "whole": lambda layer=layer, x=x: rg.gradient_flow(layer, x, loss=lambda o: squares(o[0])),
                "steps": lambda layer=layer, x=x: rg.gradient_flow(Stepped(layer, cell=False), x, loss=squares),
                "cells": lambda cell=cell, x=x: rg.gradient_flow(Stepped(cell, cell=True), x, loss=squares),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(asked.rounds + 1):
                for name, measure in ways.items():
                    start = time.perf_counter()
                    measure()
                    times[name].append(time.perf_counter() - start)
            whole, steps, cells = (statistics.median(own[1:]) for own in times.values())
            print(
                f"{kind:<4} T={asked.steps} B={batch} H={size}: whole {1e3 * whole:.0f} ms, "
                f"steps x{steps / whole:.1f}, cells x{cells / whole:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
