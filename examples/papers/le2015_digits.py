"""Le, Jaitly and Hinton 2015: digits read pixel by pixel, with a tanh network and one of ReLU units from the identity.

The paper has MNIST, 784 steps for each digit: `--digits mnist.npz` takes a file of it as Keras has it (`x_train` of
60,000 x 28 x 28 bytes, `y_train`, `x_test`, `y_test`). Without one the 1,797 digits of 8 x 8 pixels in scikit-learn are
read, 64 steps each.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from paper import kept, made, parser, words, write_page
from sklearn.datasets import load_digits
from torch import Tensor, nn

import retrograde as rg

HIDDEN, BATCH, DOCTORED = 100, 16, 512
ARMS = {"tanh": "35 %", "IRNN": "97 %"}  # with what is right in the paper
RATES = {64: {"tanh": 1e-3, "IRNN": 5e-4}, 784: {"tanh": 1e-3, "IRNN": 1e-4}}  # by the number of steps


@dataclass(frozen=True)
class Digits:
    """Pixels between 0 and 1 `(N, T)`, and what they show `(N,)`."""

    pixels: Tensor
    shown: Tensor

    def some(self, chosen: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Pixels `(T, B, 1)` and labels `(B,)`."""
        return self.pixels[chosen].T.unsqueeze(-1).contiguous(), self.shown[chosen]


def digits(file: Path | None) -> tuple[Digits, Digits]:
    """Digits to train on, and to test: MNIST from its file, or those of scikit-learn in a random order."""
    if file is None:
        found, tested = load_digits(), 360
        order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
        whole = Digits(torch.tensor(found.data / 16, dtype=torch.float32)[order], torch.tensor(found.target)[order])
        return Digits(whole.pixels[tested:], whole.shown[tested:]), Digits(whole.pixels[:tested], whole.shown[:tested])
    with np.load(file, allow_pickle=False) as held:
        parts = [(held[f"x_{part}"], held[f"y_{part}"]) for part in ("train", "test")]
    train, test = (
        Digits(torch.tensor(x.reshape(len(x), -1) / 255, dtype=torch.float32), torch.tensor(y.astype(np.int64)))
        for x, y in parts
    )
    return train, test


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


def train(model: Reader, data: Digits, updates: int, rate: float) -> dict[str, Tensor]:
    """Train, and return the gradient norms before clipping."""
    norms, optimizer = [], torch.optim.Adam(model.parameters(), rate)
    for _ in range(updates):
        x, y = data.some(torch.randint(len(data.shown), (BATCH,)))
        optimizer.zero_grad()
        loss_of(model(x), y).mean().backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
    return {"norms": torch.tensor(norms)}


@torch.no_grad()
def right(model: Reader, data: Digits) -> float:
    """The share of digits that are named rightly."""
    parts = [data.some(slice(start, start + 500)) for start in range(0, len(data.shown), 500)]
    return sum(int((model(x).argmax(-1) == y).sum()) for x, y in parts) / len(data.shown)


def doctor(model: Reader, norms: Tensor, data: Digits, rate: float) -> tuple[str, str]:
    """The doctor's verdict on a trained network, and its first prescription."""
    record = rg.doctor.TrainingRecord("adam", rate, 1.0, updates=len(norms), gradient_norms=norms.tolist())
    return words(rg.diagnose(model, data.some(slice(0, DOCTORED)), loss_of, record=record))


def main() -> None:
    """Train both arms, ask the doctor about each, write the page."""
    command = parser("Digits pixel by pixel", seeds=2)
    command.add_argument("--digits", type=Path, metavar="FILE.npz", help="MNIST as Keras has it")
    command.add_argument("--updates", type=int)
    asked = command.parse_args()
    (learned, tested), lines, seconds = digits(asked.digits), [], 0.0
    steps = learned.pixels.shape[1]
    updates = asked.updates or (1_000_000 if asked.full else 4000)
    name = ("le2015-mnist" if asked.digits else "le2015-digits") + ("-full" if asked.full else "")
    for arm, published in ARMS.items():
        shares, rate = [], RATES[steps][arm]
        for seed in range(asked.seeds):
            torch.manual_seed(seed)
            model = Reader(arm)
            path = asked.out / name / f"{arm}-{updates}-{seed}.safetensors"
            record = kept(model, path, lambda m=model, r=rate: train(m, learned, updates, r))
            seconds += float(record["seconds"])
            shares.append(right(model, tested))
            if seed == 0:
                verdict, first = doctor(model, record["norms"], learned, rate)
        median = f"{statistics.median(shares):.1%} ({' '.join(f'{share:.1%}' for share in shares)})"
        lines.append(f"| {arm} | {rate:g} | {published} | {median} | {verdict} | {first} |")
        print(lines[-1], flush=True)
    scaled = (
        f"{updates:,} updates (the paper: 1 million, `--full`), Adam instead of SGD."
        if asked.digits
        else f"the 1,797 digits of 8 x 8 pixels in scikit-learn (64 steps) instead of MNIST (784 steps), {updates:,} "
        "updates, Adam instead of SGD. 64 steps are short enough that the paper's figures are no yardstick here."
    )
    about = f"{len(tested.shown):,} digits tested, {steps} steps; {HIDDEN} units, batches of {BATCH}, clipping at 1, "
    write_page(f"{name}.md", page(lines, scaled, f"{about}{asked.seeds} seed(s).", made(seconds, shared=asked.shared)))


def page(lines: list[str], scaled: str, about: str, last: str) -> str:
    """The results as Markdown."""
    return "\n".join(
        [
            "# Le, Jaitly and Hinton 2015, digits pixel by pixel",
            "",
            "**Claim.** ReLU units that start as the identity read digits pixel by pixel; a tanh network does not.",
            "",
            f"{about} **Scaled down**: {scaled}",
            "",
            "| arm | learning rate | right in the paper | right here: median (seeds) | the doctor's verdict (seed 0) | "
            "its first prescription |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
            last,
            "",
        ]
    )


if __name__ == "__main__":
    main()
