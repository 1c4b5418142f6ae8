"""A seq2seq model of two torch.nn.GRU, measured unchanged: which words of the source does the gradient reach?

The decoder must repeat the source; everything it knows of it comes through one vector. The losses belong to the
decoder, the states asked about to the encoder: the gradient crosses from one to the other.
"""

from __future__ import annotations

import rich
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import retrograde as rg

VOCABULARY, SOURCE = 10, 12
START = VOCABULARY


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY + 1, 16)
        self.encoder = nn.GRU(16, 48)
        self.decoder = nn.GRU(16, 48)
        self.head = nn.Linear(48, VOCABULARY)

    def forward(self, source: Tensor, previous: Tensor) -> Tensor:
        _, context = self.encoder(self.embedding(source))
        return self.head(self.decoder(self.embedding(previous), context)[0])  # (T, B, V)


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    source = torch.randint(VOCABULARY, (SOURCE, size), generator=generator)
    previous = torch.cat([torch.full((1, size), START), source[:-1]])  # teacher forcing
    return source, previous


def main(training_steps: int = 200) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = Seq2Seq()
    held_out = batch(16, generator)

    def measure(title: str) -> None:
        source, previous = held_out
        flow = rg.gradient_flow(
            model,
            source,
            previous,
            loss=lambda logits: cross_entropy(logits.transpose(1, 2), source, reduction="none"),
        )
        rich.print(f"\n[bold]{title}[/bold]", flow, sep="\n")
        first, last = flow.norms[flow.layer_index("encoder.l0")][0, [0, SOURCE - 1]]
        print(
            f"Finding: of the gradient of the first word written that the encoder's last state gets, "
            f"{first / last:.2g} times as much reaches its first state, {SOURCE - 1} steps back."
        )

    measure("Untrained")
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(training_steps):
        source, previous = batch(32, generator)
        optimiser.zero_grad()
        cross_entropy(model(source, previous).flatten(0, 1), source.flatten()).backward()
        optimiser.step()
    source, previous = batch(200, generator)
    accuracy = (model(source, previous).argmax(-1) == source).float().mean()
    measure(f"After {training_steps} steps (accuracy {accuracy:.0%})")


if __name__ == "__main__":
    main()
