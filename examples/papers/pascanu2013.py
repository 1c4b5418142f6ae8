"""Pascanu, Mikolov and Bengio 2013: clipping and the regularizer let a tanh network learn the temporal order.

First with sequences of one length; then one network that is trained on lengths from 50 to 200 and tried on others.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from paper import Arm, Paper, kept, made, main, parser, words, write_page
from torch import Tensor, nn

import retrograde as rg
from retrograde.tasks.synthetic import SyntheticBatch, TemporalOrder
from retrograde.training.regularize import VanishingGradientRegularizer

HIDDEN, BATCH, LR = 50, 20, 0.01

ONE_LENGTH = Paper(
    key="pascanu2013",
    citation="Pascanu, Mikolov and Bengio 2013, On the difficulty of training recurrent neural networks, "
    "temporal order",
    claim="Plain SGD fails on the temporal order of long sequences; with clipping and the regularizer a tanh "
    "network of 50 units solves it (under 1 % of 10,000 wrong).",
    data="builtin:temporal-order?length=50&variant=pascanu",
    full_data="builtin:temporal-order?length=200&variant=pascanu",
    options={
        "cell": "rnn",
        "hidden_size": HIDDEN,
        "batch_size": BATCH,
        "optimizer": "sgd",
        "lr": LR,
        "max_steps": 20_000,
        "eval_every": 1000,
    },
    full_options={"max_steps": 1_000_000},
    arms=[
        Arm("SGD", {"clip_norm": 1e9}, learns=False),
        Arm("SGD, clipping", {"clip_norm": 1.0}, learns=False),
        Arm("SGD, clipping, regularizer", {"clip_norm": 1.0, "omega": 0.32}, learns=True),
    ],
    cure=frozenset({"omega"}),
    scaled="sequences of 50 steps (the paper: 50 to 200) and 20,000 updates. The regularizer's weight of 4 is "
    "about 16 / T = 0.32 here (`retrograde.training.regularize`).",
)

ALLOWED = TemporalOrder(variant="pascanu").criterion  # how many of 10,000 may be wrong


@dataclass(frozen=True)
class Lengths:
    """Lengths of sequences: from the shortest to the longest in training, and those that are tried afterwards."""

    shortest: int
    longest: int
    tried: tuple[int, ...]


THEIRS = Lengths(50, 200, (50, 100, 200, 500, 1000, 2000, 5000))
QUARTER = Lengths(20, 50, (20, 35, 50, 125, 250, 500, 1250))


class Reader(nn.Module):
    """A tanh network that names the order at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = rg.nn.RNN(6, HIDDEN), nn.Linear(HIDDEN, 4)
        rg.nn.initialize(self, spectral_radius=0.95)  # as the authors start tanh networks

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, 4)` of symbols `(T, B, 6)`."""
        return self.head(self.layer(x)[0][-1])  # type: ignore[no-any-return]


def drawn(length: int, count: int, generator: torch.Generator) -> SyntheticBatch:
    """Sequences of a length."""
    return TemporalOrder(length=length, variant="pascanu").batch(count, generator)


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy `(B,)`."""
    return nn.functional.cross_entropy(output, target, reduction="none")


@torch.no_grad()
def wrong(model: Reader, length: int, count: int) -> float:
    """The share of new sequences that get the wrong class."""
    generator, missed = torch.Generator().manual_seed(length), 0
    for _ in range(count // 100):
        batch = drawn(length, 100, generator)
        missed += int((model(batch.inputs).argmax(-1) != batch.targets).sum())
    return missed / (count // 100 * 100)


def train(model: Reader, lengths: Lengths, updates: int, weight: float, seed: int) -> dict[str, Tensor]:
    """Train on a new length at every update, until all lengths are solved; returns the gradient norms before clipping.

    weight: of the regularizer, on the authors' scale (`VanishingGradientRegularizer`).
    """
    generator, norms = torch.Generator().manual_seed(seed), []
    regularizer = VanishingGradientRegularizer(model, 0.0)
    optimizer = torch.optim.SGD(model.parameters(), LR)
    for update in range(1, updates + 1):
        model.train()
        length = int(torch.randint(lengths.shortest, lengths.longest + 1, (), generator=generator))
        batch = drawn(length, BATCH, generator)
        optimizer.zero_grad()
        loss_of(model(batch.inputs), batch.targets).mean().backward()
        if weight:
            regularizer.alpha = 4 * weight / length
            regularizer.add_gradients()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        if update % 1000 == 0:
            model.eval()
            shares = [wrong(model, length, 1000) for length in lengths.tried if length <= lengths.longest]
            print(f"{update:,} updates: {' '.join(f'{share:.1%}' for share in shares)} wrong", flush=True)
            if max(shares) <= ALLOWED.wrong / ALLOWED.sequences / 2:
                break
    regularizer.remove()
    return {"norms": torch.tensor(norms)}


def one_network_for_all_lengths() -> None:
    """Train with and without the regularizer, try longer sequences, ask the doctor, write the page."""
    command = parser("One network for all lengths", seeds=1)
    command.add_argument("--updates", type=int, help="at most so many for one network")
    asked = command.parse_args()
    lengths, updates = (THEIRS, asked.updates or 1_000_000) if asked.full else (QUARTER, asked.updates or 12_000)
    name, lines, seconds = "pascanu2013-lengths" + ("-full" if asked.full else ""), [], 0.0
    for arm, weight in {"clipping, regularizer": 4.0, "clipping": 0.0}.items():
        for seed in range(asked.seeds):
            torch.manual_seed(seed)
            model = Reader()
            start = copy.deepcopy(model)
            path = asked.out / name / f"{arm.replace(', ', '-')}-{updates}-{seed}.safetensors"
            record = kept(model, path, lambda m=model, w=weight, s=seed: train(m, lengths, updates, w, s))
            seconds += float(record["seconds"])
            model.eval()
            shares = [wrong(model, length, ALLOWED.sequences) for length in lengths.tried]
            batch = drawn(lengths.longest, 1000, torch.Generator().manual_seed(1000))
            norms = record["norms"].tolist()
            known = rg.doctor.TrainingRecord("sgd", LR, 1.0, updates=len(norms), gradient_norms=norms)
            seen = (batch.inputs, batch.targets)
            verdict = words(rg.diagnose(model, seen, loss_of, untrained=start, record=known))
            cells = [arm, str(seed), f"{len(norms):,}", *(f"{share:.2%}" for share in shares), *verdict]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    write_page(f"{name}.md", page(lines, lengths, updates, made(seconds, shared=asked.shared)))


def page(lines: list[str], lengths: Lengths, updates: int, last: str) -> str:
    """The results as Markdown."""
    scaled = (
        ""
        if lengths == THEIRS
        else f"**Scaled down**: a quarter of the paper's lengths, {lengths.shortest} to {lengths.longest} in training "
        f"and up to {lengths.tried[-1]:,} afterwards; with those of the paper (`--full`) nothing was learned in the "
        "first 20,000 updates, of 5 million in the paper. "
    )
    return "\n".join(
        [
            "# Pascanu, Mikolov and Bengio 2013, temporal order of all lengths",
            "",
            "**Claim.** One network trained on lengths from 50 to 200 solves lengths up to 5,000.",
            "",
            f"{scaled}{HIDDEN} tanh units, at the start with a spectral radius of 0.95 as in the paper, batches of "
            f"{BATCH} sequences of a new length at every update, SGD with a learning rate of {LR}, clipping at 1, "
            "a regularizer of weight 4 on the authors' scale (16 / T in `retrograde.training.regularize`), at most "
            f"{updates:,} updates. Training ends when at most 0.5 % of 1,000 sequences are wrong at each of these "
            f"lengths up to {lengths.longest}. Solved: fewer than 1 % wrong, of {ALLOWED.sequences:,} new sequences "
            f"here. The doctor sees 1,000 sequences of {lengths.longest} steps.",
            "",
            f"| arm | seed | updates | {' | '.join(f'wrong, T = {length:,}' for length in lengths.tried)} | "
            "the doctor's verdict | its first prescription |",
            "|" + "---|" * (len(lengths.tried) + 5),
            *lines,
            "",
            last,
            "",
        ]
    )


if __name__ == "__main__":
    main(ONE_LENGTH)
    one_network_for_all_lengths()
