"""The trials of the signal by lag whose figures are in docs/flow.md, under "What the data asks for".

    python benchmarks/learning_signal.py

Untrained tanh networks of 32 units, and two that are trained for some hundred updates: one that stays at chance, and
one that solves its task. Takes about two minutes on one core.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import retrograde as rg

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """A tanh layer of 32 units and a head, at every step or at the last."""

    def __init__(self, inputs: int, outputs: int, *, last: bool) -> None:
        super().__init__()
        self.rnn, self.head, self.last = nn.RNN(inputs, 32), nn.Linear(32, outputs), last

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `(T, B, outputs)`, or of the last step."""
        h = self.rnn(x)[0]
        found: Tensor = self.head(h[-1] if self.last else h)
        return found


def crossed(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy by step; targets of -1 are not scored."""
    return nn.functional.cross_entropy(output.movedim(-1, 1), target, reduction="none", ignore_index=-1)


def square(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of each sequence."""
    return (output[..., 0] - target).square()


def echo(lag: int | None, steps: int = 40) -> Callable[[int], Batch]:
    """Tokens, each to be repeated ``lag`` steps later; None: unrelated targets."""

    def make(size: int) -> Batch:
        x = torch.randint(4, (steps, size))
        y = torch.randint(4, (steps, size)) if lag is None else x.roll(lag, 0)
        y[: lag or 0] = -1
        return nn.functional.one_hot(x, 4).float(), y

    return make


def total(which: slice | None, steps: int = 60) -> Callable[[int], Batch]:
    """The sum of some steps; None: unrelated targets."""

    def make(size: int) -> Batch:
        x = torch.randn(steps, size, 1)
        return x, torch.randn(size) if which is None else x[which].sum((0, 2))

    return make


def adding(size: int, steps: int = 60) -> Batch:
    """The adding problem: the sum of two marked numbers, one in each half."""
    x, mark, b = torch.rand(steps, size), torch.zeros(steps, size), torch.arange(size)
    for first in (0, steps // 2):
        mark[first + torch.randint(steps // 2, (size,)), b] = 1
    return torch.stack([x, mark], -1), (x * mark).sum(0)


def batches(make: Callable[[int], Batch], sequences: int) -> list[Batch]:
    """So many sequences, in batches of 100."""
    return [make(100) for _ in range(sequences // 100)]


def report(name: str, found: rg.flow.NetworkSignal, began: float) -> None:
    """Print one line."""
    z = np.nanmax(found.layers[0].z)
    share = "" if found.error_share is None else f", error {found.error_share:.3f} of that of a constant"
    print(f"{name}: {found}; largest z {z:,.0f}{share}; {time.perf_counter() - began:.1f} s", flush=True)


def need(name: str, net: Net, make: Callable[[int], Batch], sequences: int, loss: Callable[..., Tensor]) -> None:
    """What the data asks an untrained network for."""
    began = time.perf_counter()
    report(name, rg.flow.need_of(net, batches(make, sequences), loss), began)


def trained(name: str, lag: int, steps: int, updates: int) -> None:
    """The signal left in a network after training on an echo."""
    net, make = Net(4, 4, last=False), echo(lag, steps)
    data = batches(make, 1000)
    began = time.perf_counter()
    report(f"{name}, before training", rg.flow.signal_left(net, data, crossed), began)
    optimizer, loss = torch.optim.Adam(net.parameters(), 3e-3), torch.tensor(math.nan)
    for _ in range(updates):
        x, y = make(64)
        optimizer.zero_grad()
        loss = crossed(net(x), y)[lag:].mean()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    print(f"{name}: loss {float(loss.detach()):.4f} after {updates} updates (chance {math.log(4):.4f})")
    began = time.perf_counter()
    report(f"{name}, after training", rg.flow.signal_left(net, data, crossed), began)


def main() -> None:
    """Run all trials."""
    torch.manual_seed(0)
    for lag in (3, 12, 25):
        need(f"echo of lag {lag} of 40", Net(4, 4, last=False), echo(lag), 600, crossed)
    need("unrelated tokens", Net(4, 4, last=False), echo(None), 600, crossed)
    need("sum of steps 1 to 3 of 60", Net(1, 1, last=True), total(slice(0, 3)), 4000, square)
    need("sum of the last four steps", Net(1, 1, last=True), total(slice(-4, None)), 4000, square)
    need("adding problem of 60 steps", Net(2, 1, last=True), adding, 4000, square)
    need("unrelated sum", Net(1, 1, last=True), total(None), 4000, square)
    trained("echo of lag 30 of 80", 30, 80, 800)
    trained("echo of lag 3 of 20", 3, 20, 2000)


if __name__ == "__main__":
    main()
