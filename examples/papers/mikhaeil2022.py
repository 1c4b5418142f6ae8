"""Mikhaeil, Monfared and Durstewitz 2022: on chaotic data gradients explode; forcing every ln 2 / λ steps is the cure.

A network of tanh units predicts the next state of the Lorenz system. While it is trained it reads its own predictions,
and every τ steps the true state. With τ too long the gradients explode (clipping does not cure that); with τ = 1 it
never learns to live on its own predictions. Its attractor is compared with the true one after training.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import retrograde as rg

RESULTS = Path(__file__).parent / "results"
DT, EXPONENT = 0.05, 0.9056  # time of a step; the largest Lyapunov exponent of the system (Sprott 2003)
STEPS, BATCH, HIDDEN = 200, 16, 64


def lorenz(steps: int, seed: int) -> Tensor:
    """A trajectory of the Lorenz system `(steps, 3)`, each coordinate of zero mean and unit variance (Runge-Kutta)."""

    def speed(s: np.ndarray) -> np.ndarray:
        x, y, z = s
        return np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    state, found, inner = np.random.default_rng(seed).normal(size=3), [], 10
    h = DT / inner
    for _ in range(steps + 200):
        for _ in range(inner):
            a = speed(state)
            b = speed(state + h / 2 * a)
            c = speed(state + h / 2 * b)
            d = speed(state + h * c)
            state = state + h / 6 * (a + 2 * b + 2 * c + d)
        found.append(state)
    data = np.array(found[200:])
    return torch.tensor((data - data.mean(0)) / data.std(0), dtype=torch.float32)


class Forecaster(nn.Module):
    """Reads a state of the system, its own prediction or the true one, and predicts the next."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(3, HIDDEN), nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor, tau: int) -> Tensor:
        """Predictions `(T, B, 3)`; the true states `(T, B, 3)` are read every ``tau`` steps."""
        h, read, found = x.new_zeros(x.shape[1], HIDDEN), x[0], []
        for t in range(len(x)):
            read = x[t] if t % tau == 0 else read
            h = rg.mark_state(self.cell(read, h))
            read = self.head(h)
            found.append(read)
        return torch.stack(found)


@dataclass(frozen=True)
class Outcome:
    """A trained network: how well its attractor is the true one, and what its gradients were."""

    tau: int
    divergence: float  # Kullback-Leibler, of the distributions over state space
    exponent: float  # per unit of time
    gradient: float  # median norm before clipping
    spread: float  # 99th percentile over the median
    seconds: float


def train(tau: int, data: Tensor, updates: int, seed: int) -> tuple[Forecaster, list[float]]:
    """Train on windows of the trajectory."""
    torch.manual_seed(seed)
    model, norms = Forecaster(), []
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(updates):
        starts = torch.randint(len(data) - STEPS - 1, (BATCH,))
        window = torch.stack([data[s : s + STEPS + 1] for s in starts], 1)
        loss = (model(window[:-1], tau) - window[1:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
    return model, norms


def divergence(model: Forecaster, data: Tensor, steps: int = 4000) -> float:
    """Kullback-Leibler divergence of the network's own trajectories from the true ones, over boxes of state space."""
    with torch.no_grad():
        start = data[:STEPS].unsqueeze(1)
        own = torch.cat([start, start.new_zeros(steps, 1, 3)])
        h, read, found = own.new_zeros(1, HIDDEN), own[0], []
        for t in range(len(own)):
            read = own[t] if t < 50 else read
            h = model.cell(read, h)
            read = model.head(h)
            found.append(read)
        free = torch.cat(found[100:])
    if not torch.isfinite(free).all():
        return math.inf
    edges = [np.linspace(-3.5, 3.5, 16)] * 3
    p, q = (np.histogramdd(s.numpy().clip(-3.4, 3.4), edges)[0] + 1e-2 for s in (data, free))
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def exponent(model: Forecaster, data: Tensor) -> float:
    """The largest Lyapunov exponent of the network that reads its own predictions, per unit of time."""
    x = torch.stack([data[s : s + 400] for s in range(0, 1600, 200)], 1)
    flow = rg.gradient_flow(lambda x: model(x, len(x)), x, loss=lambda y: y[-1].square().sum(-1), module=model)
    return float(flow.lyapunov_exponents(n=1, burn_in=50).mean()) / DT


def main() -> None:
    """Train with several τ, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    began, data = time.perf_counter(), lorenz(20_000, 0)
    best = round(math.log(2) / (EXPONENT * DT))
    outcomes = []
    for tau in (1, best // 3, best, 4 * best, STEPS):
        for seed in range(asked.seeds):
            start = time.perf_counter()
            model, norms = train(tau, data, asked.updates, seed)
            late = np.array(norms[len(norms) // 2 :])
            outcomes.append(
                Outcome(
                    tau,
                    divergence(model, data),
                    exponent(model, data),
                    float(np.median(late)),
                    float(np.quantile(late, 0.99) / np.median(late)),
                    time.perf_counter() - start,
                )
            )
            print(outcomes[-1], flush=True)
    lines = [
        "# Mikhaeil, Monfared and Durstewitz 2022, On the difficulty of learning chaotic dynamics with RNNs",
        "",
        "**Claim.** On chaotic data the gradients of a network that reproduces them must explode; forcing the true "
        "state every τ = ln 2 / λ steps is a good choice, and clipping is not the cure.",
        "",
        f"Data: the Lorenz system, steps of {DT} (λ = {EXPONENT} per unit of time, so τ = ln 2 / ({EXPONENT} · {DT}) = "
        f"{best} steps). {HIDDEN} tanh units, windows of {STEPS} steps, Adam, clipping at 1, {asked.updates} updates, "
        f"{asked.seeds} seeds. **Scaled down**: one system, one kind of network, small.",
        "",
        "| τ | divergence from the true attractor | Lyapunov exponent of the network | gradient norm, median | "
        "99th percentile over median | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for tau in dict.fromkeys(one.tau for one in outcomes):
        own = [one for one in outcomes if one.tau == tau]
        cells = [
            " ".join(f"{getattr(one, name):{form}}" for one in own)
            for name, form in [("divergence", ".2f"), ("exponent", ".2f"), ("gradient", ".2g"), ("spread", ".1f")]
        ]
        lines.append(f"| {tau} | {' | '.join(cells)} | {statistics.mean(one.seconds for one in own):.0f} |")
    minutes = (time.perf_counter() - began) / 60
    lines += ["", f"Made by `python examples/papers/mikhaeil2022.py`; {minutes:.0f} minutes this time.", ""]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "mikhaeil2022.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
