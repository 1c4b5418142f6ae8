"""The gradient flow of a layer called step by step, over that of the same layer called once: ratios, side by side.

Processor time of one thread, so that other processes disturb little. In parentheses: the forward pass of the loop
alone, with nothing measured, over the same.

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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        compare(asked.rounds, asked.steps)
    finally:
        torch.set_num_threads(threads)


def compare(rounds: int, steps: int) -> None:
    """Print one line for each kind of layer and size."""
    for kind in ("RNN", "GRU", "LSTM"):
        for batch, size in ((4, 32), (8, 128)):
            layer, cell = getattr(nn, kind)(32, size), getattr(nn, f"{kind}Cell")(32, size)
            x = torch.randn(steps, batch, 32)
            by_layer, by_cell = Stepped(layer, cell=False), Stepped(cell, cell=True)
            ways = {
                "whole": lambda layer=layer, x=x: rg.gradient_flow(layer, x, loss=lambda o: squares(o[0])),
                "steps": lambda model=by_layer, x=x: rg.gradient_flow(model, x, loss=squares),
                "cells": lambda model=by_cell, x=x: rg.gradient_flow(model, x, loss=squares),
                "steps alone": lambda model=by_layer, x=x: model(x),
                "cells alone": lambda model=by_cell, x=x: model(x),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds + 1):
                for name, run in ways.items():
                    start = time.process_time()
                    run()
                    times[name].append(time.process_time() - start)
            whole, *others = (statistics.median(own[1:]) for own in times.values())
            by_step, cells, step_alone, cell_alone = (other / whole for other in others)
            print(
                f"{kind:<4} T={steps} B={batch} H={size}: whole {1e3 * whole:.0f} ms, "
                f"steps x{by_step:.1f} ({step_alone:.1f}), cells x{cells:.1f} ({cell_alone:.1f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
