"""Pascanu, Mikolov and Bengio 2013: clipping and the regularizer let a tanh network learn the temporal order.

First with sequences of one length; then one network that is trained on lengths from 50 to 200 and tried on others.
"""

from __future__ import annotations

import torch
from paper import Arm, Paper, kept, made, main, parser, words, write_page
from torch import Tensor, nn

import retrograde as rg
from retrograde.tasks.synthetic import Batch, TemporalOrder
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

SHORTEST, LONGEST = 50, 200  # of the lengths in training
TRIED = (50, 100, 200, 500, 1000, 2000, 5000)
ALLOWED = TemporalOrder(variant="pascanu").criterion  # how many of 10,000 may be wrong


class Reader(nn.Module):
    """A tanh network that names the order at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = rg.nn.RNN(6, HIDDEN), nn.Linear(HIDDEN, 4)
        rg.nn.initialize(self, spectral_radius=0.95)  # as the authors start tanh networks

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, 4)` of symbols `(T, B, 6)`."""
        return self.head(self.layer(x)[0][-1])  # type: ignore[no-any-return]


def drawn(length: int, count: int, generator: torch.Generator) -> Batch:
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


def train(model: Reader, updates: int, weight: float, seed: int) -> dict[str, Tensor]:
    """Train on a new length at every update, until all lengths are solved; returns the gradient norms before clipping.

    weight: of the regularizer, on the authors' scale (`VanishingGradientRegularizer`).
    """
    generator, norms = torch.Generator().manual_seed(seed), []
    regularizer = VanishingGradientRegularizer(model, 0.0)
    optimizer = torch.optim.SGD(model.parameters(), LR)
    for update in range(1, updates + 1):
        model.train()
        length = int(torch.randint(SHORTEST, LONGEST + 1, (), generator=generator))
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
            shares = [wrong(model, length, 1000) for length in (SHORTEST, 100, 150, LONGEST)]
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
    updates = asked.updates or (1_000_000 if asked.full else 30_000)
    name, lines, seconds = "pascanu2013-lengths" + ("-full" if asked.full else ""), [], 0.0
    for arm, weight in {"clipping, regularizer": 4.0, "clipping": 0.0}.items():
        for seed in range(asked.seeds):
            torch.manual_seed(seed)
            model = Reader()
            path = asked.out / name / f"{arm.replace(', ', '-')}-{updates}-{seed}.safetensors"
            record = kept(model, path, lambda m=model, w=weight, s=seed: train(m, updates, w, s))
            seconds += float(record["seconds"])
            model.eval()
            shares = [wrong(model, length, ALLOWED.sequences) for length in TRIED]
            batch = drawn(LONGEST, 300, torch.Generator().manual_seed(1000))
            norms = record["norms"].tolist()
            known = rg.doctor.TrainingRecord("sgd", LR, 1.0, updates=len(norms), gradient_norms=norms)
            verdict = words(rg.diagnose(model, (batch.inputs, batch.targets), loss_of, record=known))
            cells = [arm, str(seed), f"{len(norms):,}", *(f"{share:.2%}" for share in shares), *verdict]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    write_page(f"{name}.md", page(lines, updates, asked.full, made(seconds, shared=asked.shared)))


def page(lines: list[str], updates: int, full: bool, last: str) -> str:
    """The results as Markdown."""
    scaled = (
        f"**Scaled down**: at most {updates:,} updates and few seeds (the paper: 5 million, `--full`: 1 million). "
        if not full
        else ""
    )
    return "\n".join(
        [
            "# Pascanu, Mikolov and Bengio 2013, temporal order of all lengths",
            "",
            f"**Claim.** One network trained on lengths from {SHORTEST} to {LONGEST} solves lengths up to 5,000.",
            "",
            f"{HIDDEN} tanh units, at the start with a spectral radius of 0.95 as in the paper, batches of {BATCH} "
            f"sequences whose length is drawn at every update, SGD with a learning rate of {LR}, clipping at 1, a "
            f"regularizer of weight 4 on the authors' scale (16 / T in `retrograde.training.regularize`). {scaled}"
            f"Training ends when at most 0.5 % of 1,000 sequences are wrong at {SHORTEST}, 100, 150 and {LONGEST} "
            f"steps. Solved: fewer than 1 % wrong, of {ALLOWED.sequences:,} new sequences here. The doctor sees "
            f"sequences of {LONGEST} steps.",
            "",
            f"| arm | seed | updates | {' | '.join(f'wrong, T = {length:,}' for length in TRIED)} | "
            "the doctor's verdict | its first prescription |",
            "|" + "---|" * (len(TRIED) + 5),
            *lines,
            "",
            last,
            "",
        ]
    )


if __name__ == "__main__":
    main(ONE_LENGTH)
    one_network_for_all_lengths()
