"""`make zoo`: train with other people's tools, once with torch's layers and once with ours, and compare.

``python -m benchmarks.zoo [--only TOOL] [--repeats 3]`` prints a row for each network: the largest difference between
the two forecasts, the median time of the whole ``fit`` both ways, and which share of torch's time its recurrent layers
took (measured by a third training, in which a product with the input weights stands in for them).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

import retrograde as rg

from .tools import TOOLS, Array, Clock, quiet

CLOSE, FASTER = 1e-4, 1.5


@contextmanager
def without_recurrence() -> Iterator[None]:
    """Recurrent layers give a product with the input weights: what is left is the time of everything else."""
    kept = {kind: kind.forward for kind in (torch.nn.RNN, torch.nn.GRU, torch.nn.LSTM)}

    def stand_in(self: Any, input: Any, hx: Any = None) -> Any:
        packed = isinstance(input, torch.nn.utils.rnn.PackedSequence)
        rows = input.data if packed else input
        weight = self.weight_ih_l0[: self.hidden_size]
        found = rows @ weight.T
        found = torch.cat([found] * (2 if self.bidirectional else 1), -1)
        batch = input.batch_sizes[0] if packed else rows.shape[0 if self.batch_first else 1]
        state = found.new_zeros(self.num_layers * (2 if self.bidirectional else 1), int(batch), self.hidden_size)
        output = input._replace(data=found) if packed else found
        return output, (state, state) if isinstance(self, torch.nn.LSTM) else state

    try:
        for kind in kept:
            kind.forward = stand_in
        yield
    finally:
        for kind, forward in kept.items():
            kind.forward = forward


def timed(
    train: Callable[[str, Clock], Array], kind: str, context: Any, now: Callable[[], float]
) -> tuple[Array, float]:
    """The forecast, and the seconds of ``fit``."""
    seconds = list[float]()

    @contextmanager
    def clock() -> Iterator[None]:
        began = now()
        yield
        seconds.append(now() - began)

    with context:
        return train(kind, clock), sum(seconds)


def compare(
    name: str, train: Callable[[str, Clock], Array], kind: str, repeats: int, now: Callable[[], float]
) -> dict[str, Any]:
    """Train both ways, in turn; the first pair warms up and is not timed."""
    theirs, ours, rest = list[float](), list[float](), list[float]()
    for repeat in range(repeats + 1):
        one, seconds = timed(train, kind, nullcontext(), now)
        other, faster = timed(train, kind, rg.nn.accelerated(), now)
        if repeat:
            theirs.append(seconds)
            ours.append(faster)
            rest.append(timed(train, kind, without_recurrence(), now)[1])
    scale = max(1.0, float(np.abs(one).max()))
    torchs, own = statistics.median(theirs), statistics.median(ours)
    return {
        "tool": name,
        "network": kind,
        "difference": float(np.abs(one - other).max()) / scale,
        "torch": torchs,
        "ours": own,
        "ratio": torchs / own,
        "share": max(0.0, 1 - statistics.median(rest) / torchs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--only", help="one tool, or a network of it: darts, darts.GRU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, where the machine does other things as well")
    arguments = parser.parse_args()
    now = time.process_time if arguments.cpu else time.perf_counter
    quiet()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.2f}", flush=True)
    print(
        f"{'tool':20} {'network':26} {'difference':>10} {'torch':>8} {'ours':>8} {'ratio':>6} {'recurrent':>9}",
        flush=True,
    )
    different, slow = list[str](), list[str]()
    for name, (train, kinds) in TOOLS.items():
        for kind in kinds:
            if arguments.only and arguments.only not in (name, f"{name}.{kind}"):
                continue
            row = compare(name, train, kind, arguments.repeats, now)
            print(
                f"{name:20} {kind:26} {row['difference']:10.1e} {row['torch']:7.2f}s {row['ours']:7.2f}s "
                f"{row['ratio']:6.2f} {row['share']:9.0%}",
                flush=True,
            )
            if not row["difference"] < CLOSE:
                different.append(f"{name}.{kind}")
            if row["share"] >= 0.5 and row["ratio"] < FASTER:
                slow.append(f"{name}.{kind}")
    if slow:
        print(f"under {FASTER} times as fast, though half of the time is recurrent: {', '.join(slow)}")
    if different:
        raise SystemExit(f"forecasts that differ by more than {CLOSE}: {', '.join(different)}")


if __name__ == "__main__":
    main()
