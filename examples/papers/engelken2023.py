"""Engelken 2023: a network whose Lyapunov exponents are pushed to 0 before training learns to copy over longer delays.

At every step the network reads a random number, and it answers with the one that it read d steps before. It must keep d
numbers at once, so as many directions of its state must neither shrink nor grow.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from paper import write_page
from torch import Tensor, nn

import retrograde as rg

STEPS, BATCH, HIDDEN = 120, 16, 64
ARMS = ("as torch starts it", "orthogonal", "flossed")


class Copier(nn.Module):
    """A vanilla network with an answer at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = rg.nn.RNN(1, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Answers `(T, B, 1)` to numbers `(T, B, 1)`."""
        return self.head(self.layer(x)[0])  # type: ignore[no-any-return]


def squared(output: Tensor, target: Tensor) -> Tensor:
    """Squared errors `(T, B)`; the first steps, which ask for nothing, have target 0."""
    return (output - target).square().squeeze(-1)


def sequences(delay: int, count: int = BATCH) -> tuple[Tensor, Tensor]:
    """Numbers in (-1, 1), and what is to be answered."""
    x = 2 * torch.rand(STEPS, count, 1) - 1
    return x, torch.cat([torch.zeros(delay, count, 1), x[:-delay]])


def train(arm: str, delay: int, updates: int, seed: int) -> tuple[float, nn.Module]:
    """Train, and return the mean squared error over the variance of the target, of 500 new sequences."""
    torch.manual_seed(seed)
    model = Copier()
    if arm == "orthogonal":
        rg.nn.initialize(model, recurrent="orthogonal")
    elif arm == "flossed":
        rg.nn.floss(model, sequences(delay, 8)[0], exponents=delay, updates=100)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(updates):
        x, y = sequences(delay)
        loss = squared(model(x), y)[delay:].mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        x, y = sequences(delay, 500)
        return float(squared(model(x), y)[delay:].mean() / y[delay:].var()), model


def main() -> None:
    """Train every arm with several delays, ask the doctor of the one that fails, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=2500)
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    began, lines = time.perf_counter(), []
    for delay in (10, 40):
        cells = []
        for arm in ARMS:
            found = [train(arm, delay, asked.updates, seed) for seed in range(asked.seeds)]
            errors = [error for error, _ in found]
            cells.append(f"{statistics.median(errors):.3f} ({' '.join(f'{error:.3f}' for error in errors)})")
            if arm == ARMS[0]:
                torch.manual_seed(1000)
                diagnosis = rg.diagnose(found[0][1], sequences(delay, 300), squared)
                sick = sorted({one.about.title for one in diagnosis.findings if one.severity == "sick"})
                first = diagnosis.prescriptions[0] if diagnosis.prescriptions else None
                verdict = ", ".join(sick) or diagnosis.verdict
        prescription = f"{first.remedy} ({first.arithmetic})" if first else "none"
        lines.append(f"| {delay} | {' | '.join(cells)} | {verdict} | {prescription} |")
        print(lines[-1], flush=True)
    minutes = (time.perf_counter() - began) / 60
    text = "\n".join(
        [
            "# Engelken 2023, Gradient Flossing (NeurIPS), delayed copy",
            "",
            "**Claim.** Pushing Lyapunov exponents to 0 before training lets a vanilla network copy over long delays.",
            "",
            f"{HIDDEN} tanh units, {STEPS} steps, batches of {BATCH}, Adam, {asked.updates} updates, {asked.seeds} "
            "seeds; flossed: `rg.nn.floss(model, x, exponents=delay, updates=100)`. **Scaled down**: the paper has 80 "
            "units, 300 steps and delays of up to 70, and flosses during training too. Error: mean squared error over "
            "the variance of the target (1: nothing is learned), median (all seeds).",
            "",
            f"| delay | {' | '.join(ARMS)} | the doctor's verdict on the first arm | its first prescription |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
            f"Made by `python examples/papers/engelken2023.py`; {minutes:.0f} minutes this time.",
            "",
        ]
    )
    write_page("engelken2023.md", text)


if __name__ == "__main__":
    main()
