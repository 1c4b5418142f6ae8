"""Le, Jaitly and Hinton 2015: digits read pixel by pixel, with a tanh network and one of ReLU units from the identity.

Scaled down: the 1,797 digits of 8 x 8 pixels in scikit-learn, 64 steps each, where the paper has MNIST, 784 steps.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from paper import write_page
from sklearn.datasets import load_digits
from torch import Tensor, nn

import retrograde as rg

HIDDEN, BATCH, TESTED = 100, 16, 360
ARMS = {"tanh": 0.001, "IRNN": 0.0005}  # with their learning rates


class Reader(nn.Module):
    """A vanilla network that reads one pixel a step, and names the digit at the end."""

    def __init__(self, arm: str) -> None:
        super().__init__()
        self.layer = rg.nn.RNN(1, HIDDEN, nonlinearity="relu" if arm == "IRNN" else "tanh")
        self.head = nn.Linear(HIDDEN, 10)
        if arm == "IRNN":
            rg.nn.initialize(self, recurrent="identity", bias=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, 10)` of pixels `(T, B, 1)`."""
        return self.head(self.layer(x)[0][-1])  # type: ignore[no-any-return]


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy `(B,)`."""
    return nn.functional.cross_entropy(output, target, reduction="none")


def digits() -> tuple[Tensor, Tensor]:
    """Pixels between 0 and 1 `(T, B, 1)`, in a random order of digits, and what they show `(B,)`."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    pixels = torch.tensor(found.data / 16, dtype=torch.float32)[order]
    return pixels.T.unsqueeze(-1).contiguous(), torch.tensor(found.target)[order]


def train(arm: str, updates: int, seed: int) -> tuple[float, nn.Module]:
    """Train, and return the share of the tested digits that are right."""
    torch.manual_seed(seed)
    model, (x, y) = Reader(arm), digits()
    optimizer = torch.optim.Adam(model.parameters(), ARMS[arm])
    for _ in range(updates):
        chosen = torch.randint(TESTED, len(y), (BATCH,))
        optimizer.zero_grad()
        loss_of(model(x[:, chosen]), y[chosen]).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        return float((model(x[:, :TESTED]).argmax(-1) == y[:TESTED]).double().mean()), model


def main() -> None:
    """Train both arms, ask the doctor about each, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    began, lines, (x, y) = time.perf_counter(), [], digits()
    for arm, told in zip(ARMS, ("35 %", "97 %"), strict=True):
        found = [train(arm, asked.updates, seed) for seed in range(asked.seeds)]
        right = [share for share, _ in found]
        diagnosis = rg.diagnose(found[0][1], (x[:, TESTED:], y[TESTED:]), loss_of)
        sick = sorted({one.about.title for one in diagnosis.findings if one.severity == "sick"})
        first = diagnosis.prescriptions[0].remedy if diagnosis.prescriptions else "none"
        shares = f"{statistics.median(right):.1%} ({' '.join(f'{share:.1%}' for share in right)})"
        lines.append(f"| {arm} | {told} | {shares} | {', '.join(sick) or diagnosis.verdict} | {first} |")
        print(lines[-1], flush=True)
    minutes = (time.perf_counter() - began) / 60
    text = "\n".join(
        [
            "# Le, Jaitly and Hinton 2015, digits pixel by pixel",
            "",
            "**Claim.** ReLU units that start as the identity read digits pixel by pixel; a tanh network does not.",
            "",
            f"**Scaled down**: the 1,797 digits of 8 x 8 pixels in scikit-learn (64 steps, {TESTED} tested) instead of "
            f"MNIST (784 steps); {HIDDEN} units, Adam (tanh 0.001, IRNN 0.0005), batches of {BATCH}, {asked.updates} "
            f"updates, {asked.seeds} seeds. 64 steps are short enough that the paper's figures are no yardstick here.",
            "",
            "| arm | right in the paper | right here: median (seeds) | the doctor's verdict (seed 0) | first remedy |",
            "|---|---|---|---|---|",
            *lines,
            "",
            f"Made by `python examples/papers/le2015_digits.py`; {minutes:.0f} minutes this time.",
            "",
        ]
    )
    write_page("le2015-digits.md", text)


if __name__ == "__main__":
    main()
