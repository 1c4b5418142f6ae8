"""Engelken 2023: a network whose Lyapunov exponents are pushed to 0 before training learns to copy over longer delays.

At every step the network reads a random number, and it answers with the one that it read d steps before. It must keep d
numbers at once, so as many directions of its state must neither shrink nor grow.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from paper import kept, made, parser, place_of, words, write_page
from torch import Tensor, nn

import retrograde as rg

BATCH, LR = 16, 1e-3
ARMS = ("as torch starts it", "orthogonal", "flossed")


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    hidden: int
    steps: int
    delays: tuple[int, ...]
    updates: int


THEIRS = Size(80, 300, (10, 40, 70), 10_000)
SMALLER = Size(64, 120, (10, 40), 2500)


class Copier(nn.Module):
    """A recurrent network, vanilla unless options say otherwise, with an answer at every step."""

    def __init__(self, hidden: int, **options: Any) -> None:
        super().__init__()
        self.layer = rg.nn.recurrent_layer(1, hidden, **{"cell": "rnn", **options})
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Answers `(T, B, 1)` to numbers `(T, B, 1)`."""
        return self.head(self.layer(x)[0])  # type: ignore[no-any-return]


def squared(output: Tensor, target: Tensor) -> Tensor:
    """Squared errors `(T, B)`; the first steps, which ask for nothing, have target 0."""
    return (output - target).square().squeeze(-1)


def sequences(delay: int, steps: int, count: int = BATCH) -> tuple[Tensor, Tensor]:
    """Numbers in (-1, 1), and what is to be answered."""
    x = 2 * torch.rand(steps, count, 1) - 1
    return x, torch.cat([torch.zeros(delay, count, 1), x[:-delay]])


def train(model: Copier, arm: str, delay: int, size: Size) -> dict[str, Tensor]:
    """Start the network as the arm does, train it, and return its gradient norms before clipping."""
    if arm == "orthogonal":
        rg.nn.initialize(model, recurrent="orthogonal")
    elif arm == "flossed":
        rg.nn.floss(model, sequences(delay, size.steps, 8)[0], exponents=delay, updates=100)
    norms, optimizer = [], torch.optim.Adam(model.parameters(), LR)
    for _ in range(size.updates):
        x, y = sequences(delay, size.steps)
        loss = squared(model(x), y)[delay:].mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
    return {"norms": torch.tensor(norms)}


@dataclass(frozen=True)
class Outcome:
    """A trained network."""

    model: Copier
    norms: list[float]
    seconds: float
    error: float  # the mean squared error over the variance of the target, of 500 new sequences


def trained(
    arm: str, delay: int, size: Size, seed: int, folder: Path, options: Mapping[str, Any] | None = None
) -> Outcome:
    """A trained network, from its file if it is there. Its layer has these options."""
    torch.manual_seed(seed)
    model = Copier(size.hidden, **(options or {}))
    path = folder / f"{arm.replace(' ', '-')}-delay-{delay}-seed-{seed}-updates-{size.updates}.safetensors"
    record = kept(model, path, lambda: train(model, arm, delay, size))
    torch.manual_seed(1000 + seed)
    with torch.no_grad():
        x, y = sequences(delay, size.steps, 500)
        error = float(squared(model(x), y)[delay:].mean() / y[delay:].var())
    return Outcome(model, record["norms"].tolist(), float(record["seconds"]), error)


def doctor(one: Outcome, delay: int, size: Size) -> rg.Diagnosis:
    """What the doctor says of a trained network."""
    torch.manual_seed(1000)
    record = rg.doctor.TrainingRecord("adam", LR, 1.0, updates=len(one.norms), gradient_norms=one.norms)
    return rg.diagnose(one.model, sequences(delay, size.steps, 300), squared, record=record)


def main() -> None:
    """Train every arm with several delays, ask the doctor of the one that fails, write the page."""
    command = parser(str(__doc__), seeds=2)
    command.add_argument("--updates", type=int)
    asked = command.parse_args()
    size = THEIRS if asked.full else SMALLER
    size = replace(size, updates=asked.updates or size.updates)
    name, lines, seconds = "engelken2023" + ("-full" if asked.full else ""), [], 0.0
    for delay in size.delays:
        cells = []

        def tried(arm: str, options: Mapping[str, Any] | None = None, delay: int = delay) -> list[Outcome]:
            folder = asked.out / name
            return [trained(arm, delay, size, seed, folder, options) for seed in range(asked.seeds)]

        arms = {arm: tried(arm) for arm in ARMS}
        diagnosis = doctor(arms[ARMS[0]][0], delay, size)
        if diagnosis.prescriptions:
            options = diagnosis.prescriptions[0].options
            arm = "prescribed " + " ".join(f"{key} {value}" for key, value in options.items())
            arms[arm] = tried(arm, options)
        cure = place_of(frozenset({"floss"}), diagnosis) if diagnosis.prescriptions else ""
        for found in arms.values():
            errors = [one.error for one in found]
            seconds += sum(one.seconds for one in found)
            cells.append(f"{statistics.median(errors):.3f} ({' '.join(f'{error:.3f}' for error in errors)})")
        cells += [""] * (len(ARMS) + 1 - len(cells))
        lines.append(f"| {delay} | {' | '.join([*cells, *words(diagnosis), cure])} |")
        print(lines[-1], flush=True)
    scaled = "" if asked.full else "**Scaled down**: the paper has 80 units, 300 steps and delays of up to 70. "
    text = "\n".join(
        [
            "# Engelken 2023, Gradient Flossing (NeurIPS), delayed copy",
            "",
            "**Claim.** Pushing Lyapunov exponents to 0 before training lets a vanilla network copy over long delays.",
            "",
            f"{size.hidden} tanh units, {size.steps} steps, batches of {BATCH}, Adam, {size.updates} updates, "
            f"{asked.seeds} seeds; flossed: `rg.nn.floss(model, x, exponents=delay, updates=100)`. The paper flosses "
            f"during training too. {scaled}Error: mean squared error over "
            "the variance of the target (1: nothing is learned), median (all seeds).",
            "",
            f"| delay | {' | '.join(ARMS)} | as prescribed | the doctor's verdict on the first arm (seed 0) | "
            "its first prescription | flossing among its prescriptions |",
            "|---|---|---|---|---|---|---|---|",
            *lines,
            "",
            made(seconds, shared=asked.shared),
            "",
        ]
    )
    write_page(f"{name}.md", text)


if __name__ == "__main__":
    main()
