"""A bidirectional torch.nn.GRU tagger, measured unchanged: how far does a tag look, to the left and to the right?

A token's tag is whether the token three to its left was even, and whether the one a step to its right was: the two
directions have different work, and after training it shows. Padded steps have no loss.
"""

from __future__ import annotations

import rich
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import retrograde as rg

VOCABULARY, LONGEST, LEFT, RIGHT = 12, 24, 3, 1
PADDING = -100  # what cross_entropy ignores


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.gru = nn.GRU(8, 24, bidirectional=True, batch_first=True)
        self.head = nn.Linear(48, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(tokens))[0])  # (B, T, tags)


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(VOCABULARY, (size, LONGEST), generator=generator)
    even = 1 - tokens % 2
    left = nn.functional.pad(even[:, :-LEFT], (LEFT, 0))
    right = nn.functional.pad(even[:, RIGHT:], (0, RIGHT))
    tags = 2 * left + right
    lengths = torch.randint(LONGEST // 2, LONGEST + 1, (size, 1), generator=generator)
    return tokens, tags.masked_fill(torch.arange(LONGEST) >= lengths, PADDING)


def main(training_steps: int = 120) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = Tagger()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(training_steps):
        tokens, tags = batch(32, generator)
        optimiser.zero_grad()
        cross_entropy(model(tokens).flatten(0, 1), tags.flatten()).backward()
        optimiser.step()

    tokens, tags = batch(16, generator)
    real = tags != PADDING
    accuracy = (model(tokens).argmax(-1) == tags)[real].float().mean()

    def losses(logits: Tensor) -> Tensor:
        # cross_entropy wants the tags on axis 1; losses by step are (T, B). A padded step's loss is 0.
        return cross_entropy(logits.transpose(1, 2), tags, reduction="none", ignore_index=PADDING).T

    flow = rg.gradient_flow(model, tokens, loss=losses)
    rich.print(f"[bold]Bidirectional tagger, trained (accuracy {accuracy:.0%})[/bold]", flow, sep="\n")

    reach = flow.horizon(0.1)
    for label, way, distance in (("l0", "left", LEFT), ("l0_reverse", "right", RIGHT)):
        print(
            f"Finding: the task needs {distance} to the {way}; {label} keeps a tenth of its gradient for "
            f"{reach[flow.layer_index(label)]:.0f} steps."
        )


if __name__ == "__main__":
    main()
